//! Tables and formatted rows as docker prints them: a format in, lines out.

use serde_json::{Map, Value};

use crate::template::Template;
use crate::template::go_json;
use crate::text::{printable, printable_json};

/// A column of a listing: the template field, its heading.
pub type Headings = &'static [(&'static str, &'static str)];

/// Renders rows by `--format`.
///
/// * `table TEMPLATE`: a heading line and aligned columns;
/// * `json`: one JSON object a line;
/// * anything else: the template once a row.
///
/// Names, labels and messages are other people's words: but for JSON, which escapes them, they are made [`printable`].
pub fn rows(format: &str, headings: Headings, rows: &[Value]) -> Result<String, String> {
    if format == "json" || format == "{{json .}}" {
        return Ok(rows.iter().map(|row| go_json(&without_methods(row)) + "\n").collect());
    }
    let unescape = |text: &str| text.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
    let parse = |text: &str| Template::parse(text).map_err(|e| format!("template parsing error: template: :1: {e}"));
    let explain = |e: String| format!("template: :1: executing \"\": {e}");
    if let Some(columns) = format.strip_prefix("table") {
        // `table` alone means the default columns to docker; here each caller passes its own.
        let template = parse(&unescape(columns))?;
        let heading: Map<String, Value> =
            headings.iter().map(|(field, heading)| ((*field).to_owned(), Value::from(*heading))).collect();
        let mut lines = vec![template.render(&Value::Object(heading)).map_err(explain)?];
        for row in rows {
            lines.push(template.render(row).map_err(explain)?);
        }
        return Ok(align(&lines));
    }
    let template = parse(&unescape(format))?.strict();
    let mut out = String::new();
    for row in rows {
        out.push_str(&printable(&template.render(row).map_err(explain)?));
        out.push('\n');
    }
    Ok(out)
}

/// Rows carry `Label` as a map for `{{.Label "key"}}`; it is a method, not a field.
fn without_methods(row: &Value) -> Value {
    match row {
        Value::Object(map) => {
            Value::Object(map.iter().filter(|(key, _)| *key != "Label").map(|(k, v)| (k.clone(), v.clone())).collect())
        }
        other => other.clone(),
    }
}

/// Pads tab-separated cells: at least ten wide, three blanks between columns, the last cell as it is.
pub fn align(lines: &[String]) -> String {
    align_with(lines, 10, 3)
}

pub fn align_with(lines: &[String], minimum: usize, padding: usize) -> String {
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    // The last cell of a line ends no column, so it widens none.
    let width = |column: usize| {
        let ended = cells.iter().filter(|row| column + 1 < row.len());
        ended.map(|row| row[column].chars().count() + padding).max().unwrap_or(0).max(minimum)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < row.len() {
                out.extend(std::iter::repeat_n(' ', widths[column].saturating_sub(cell.chars().count())));
            }
        }
        out.push('\n');
    }
    out
}

/// Pretty JSON as Go's encoder indents it, four blanks: `inspect`.
pub fn indented(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("a JSON value serialises");
    printable_json(String::from_utf8(out).expect("JSON is UTF-8"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEADINGS: Headings = &[("ID", "CONTAINER ID"), ("Names", "NAMES")];

    #[test]
    fn tables_align_as_dockers() {
        let values = [json!({"ID": "abc", "Names": "web"}), json!({"ID": "0123456789abcdef", "Names": "db"})];
        assert_eq!(
            rows("table {{.ID}}\\t{{.Names}}", HEADINGS, &values).unwrap(),
            "CONTAINER ID       NAMES\nabc                web\n0123456789abcdef   db\n"
        );
        assert_eq!(rows("{{.Names}}", HEADINGS, &values).unwrap(), "web\ndb\n");
        assert_eq!(rows("table {{.ID}}", HEADINGS, &[]).unwrap(), "CONTAINER ID\n");
    }

    #[test]
    fn json_rows_leave_methods_out() {
        let values = [json!({"ID": "abc", "Label": {"a": "b"}})];
        assert_eq!(rows("json", HEADINGS, &values).unwrap(), "{\"ID\":\"abc\"}\n");
        assert_eq!(rows("{{.Label \"a\"}}{{.Label \"x\"}}", HEADINGS, &values).unwrap(), "b\n");
    }
}
