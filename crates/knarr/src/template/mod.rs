//! Go's text templates as far as docker's `--format` uses them: fields, pipelines, `if`, `range`, `with`, variables, and the
//! functions that docker documents. Pure: a template and a JSON value in, text out. What is not known is an error, never skipped.

mod eval;
mod functions;
pub(crate) use functions::go_json;
mod lex;
mod parse;

use serde_json::Value;

/// A parsed template; may be rendered many times.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<parse::Node>,
    strict: bool,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { nodes: parse::parse(text)?, strict: false })
    }

    /// A field that the value does not have becomes an error instead of `<no value>`.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    pub fn render(&self, value: &Value) -> Result<String, String> {
        eval::render(&self.nodes, value, self.strict)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let value = json!({
            "Id": "abc", "Name": "/web", "Pid": 42, "Running": true, "Empty": "", "Nothing": null, "Ratio": 1.5,
            "Env": ["A=1", "B=2"],
            "Config": {"Labels": {"b": "2", "a.c": "1"}, "Cmd": ["sh", "-c", "x < y"]},
        });
        Template::parse(template)?.strict().render(&value)
    }

    #[test]
    fn templates_render_as_go_renders_them() {
        let cases = [
            ("{{.Id}}", "abc"),
            ("{{ .Pid }} {{.Running}} {{.Ratio}}", "42 true 1.5"),
            ("x{{- .Id -}}  y", "xabcy"),
            ("{{/* nothing */}}z", "z"),
            ("{{json .Config.Cmd}}", "[\"sh\",\"-c\",\"x \\u003c y\"]"),
            ("{{.Config.Labels}}", "map[a.c:1 b:2]"),
            ("{{.Env}}", "[A=1 B=2]"),
            ("{{index .Config.Labels \"a.c\"}}", "1"),
            ("{{index .Env 1}}", "B=2"),
            ("{{range .Env}}[{{.}}]{{end}}", "[A=1][B=2]"),
            ("{{range $i, $e := .Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=2;"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "a.c:1 b:2 "),
            ("{{range .Nothing}}a{{else}}none{{end}}", "none"),
            ("{{if .Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Empty}}a{{else if eq .Pid 42}}b{{else}}c{{end}}", "b"),
            ("{{if and .Running (not .Empty)}}y{{end}}", "y"),
            ("{{with .Config}}{{len .Cmd}}{{end}}", "3"),
            ("{{with $x := .Id}}{{$x}}{{$.Pid}}{{end}}", "abc42"),
            ("{{join .Env \", \"}}", "A=1, B=2"),
            ("{{upper .Id}} {{lower \"XY\"}} {{title \"web app\"}}", "ABC xy Web App"),
            ("{{split \"a,b\" \",\"}}", "[a b]"),
            (
                "{{printf \"%s-%d %q %v %5s|%-5s|%05d\" .Id .Pid .Name .Env \"r\" \"l\" 7}}",
                "abc-42 \"/web\" [A=1 B=2]     r|l    |00007",
            ),
            ("{{println .Id}}", "abc\n"),
            ("{{.Id | upper | printf \"%s!\"}}", "ABC!"),
            ("{{eq .Id \"x\" \"abc\"}} {{ne .Pid 1}} {{lt .Pid 50}} {{ge .Pid 42}}", "true true true true"),
            ("{{or .Empty \"fallback\"}} {{and .Id .Pid}}", "fallback 42"),
            ("{{$x := .Pid}}{{$x = 7}}{{$x}}", "7"),
            ("{{slice .Id 1}} {{slice .Id 0 2}}", "bc ab"),
            ("{{truncate .Id 2}}{{pad .Id 1 2}}|", "ab abc  |"),
            ("{{`raw \"text\"`}}{{'a'}}", "raw \"text\"97"),
            ("{{print .Id .Pid 3 \"x\"}}", "abc42 3x"),
            ("{{.Nothing}}", "<no value>"),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("{{.Id", "unclosed action"),
            ("{{if .Id}}x", "unexpected EOF"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{nope .Id}}", "function \"nope\" not defined"),
            ("{{.Missing}}", "map has no entry for key \"Missing\""),
            ("{{.Id.More}}", "can't evaluate field More"),
            ("{{$y}}", "undefined variable \"$y\""),
            ("{{index .Env 9}}", "index out of range: 9"),
            ("{{\"open}}", "unterminated quoted string"),
            ("{{define \"x\"}}{{end}}", "not supported"),
        ];
        for (template, expected) in cases {
            let error = render(template).expect_err(template);
            assert!(error.contains(expected), "{template}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        let text = format!("{{{{{}.Id{}}}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(render(&text).unwrap_err().contains("nested too deeply"));
    }
}
