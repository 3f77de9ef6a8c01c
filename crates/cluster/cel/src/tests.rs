//! Expressions and what they come to.

use serde_json::{Value, json};

use super::*;

fn run(source: &str, me: &Value) -> Result<Val, String> {
    let program = Program::compile(source, &["self", "oldSelf"]).map_err(|error| error.to_string())?;
    let variables = [("self", Val::from_json(me)), ("oldSelf", Val::from_json(me))];
    program.eval(&variables, &mut COST_MAX.clone()).map_err(|error| error.to_string())
}

/// Everything here is true.
#[test]
fn expressions_hold() {
    let me = json!({"replicas": 3, "min": 1, "max": 5, "name": "web-1", "tags": ["a", "b"], "ports": [80, 443],
        "limits": {"cpu": "500m", "memory": "1Gi"}, "items": [{"key": "x", "n": 1}, {"key": "y", "n": 2}], "ratio": 0.5});
    let rows = [
        "self.min <= self.replicas && self.replicas <= self.max",
        "self.name.startsWith('web') && self.name.size() == 5",
        "has(self.name) && !has(self.missing)",
        "self.tags.all(t, t in ['a', 'b', 'c'])",
        "self.tags.exists(t, t == 'b') && self.tags.exists_one(t, t == 'a')",
        "self.items.map(i, i.key) == ['x', 'y']",
        "self.items.filter(i, i.n > 1).size() == 1",
        "self.items.map(i, i.n > 1, i.n * 10) == [20]",
        "self.limits.all(k, size(self.limits[k]) > 0)",
        "'cpu' in self.limits && self.limits['cpu'] == '500m'",
        "self.name.matches('^[a-z]+-[0-9]+$')",
        "self.ports.all(p, p > 0 && p < 65536)",
        "(self.replicas > 2 ? 'many' : 'few') == 'many'",
        "self.?missing.orValue('d') == 'd'",
        "self.?limits.?cpu.orValue('') == '500m'",
        "self.limits[?'gpu'].hasValue() == false",
        "optional.of(1).optMap(x, x + 1).value() == 2",
        "[?self.?missing, ?self.?name] == ['web-1']",
        "{'a': 1, ?'b': self.?missing} == {'a': 1}",
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 7 % 3 == 1 && -7 / 2 == -3",
        "1 == 1.0 && 2u > 1 && 0x10 == 16 && 1e3 == 1000.0",
        "'a' + 'b' == 'ab' && [1] + [2] == [1, 2]",
        "true || self.missing == 1",
        "self.missing == 1 || true",
        "!(false && self.missing == 1)",
        "size('äö') == 2 && 'äö'.substring(1) == 'ö' && 'abc'.charAt(1) == 'b'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && ['a', 'b'].join('-') == 'a-b'",
        "'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'abc'.replace('b', 'x') == 'axc'",
        "'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && ' x '.trim() == 'x'",
        "'Ab'.lowerAscii() == 'ab' && 'Ab'.upperAscii() == 'AB'",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "duration('1h30m') > duration('80m') && duration('90s').getMinutes() == 1",
        "timestamp('2024-01-02T03:04:05Z').getFullYear() == 2024 && timestamp('2024-01-02T03:04:05Z').getMonth() == 0",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "timestamp('2024-01-01T23:30:00Z').getHours('+01:00') == 0",
        "int('42') == 42 && string(42) == '42' && double('1.5') == 1.5 && bool('true')",
        "type(self.replicas) == int && type('') == string && type([]) == list",
        "quantity(self.limits.cpu).isLessThan(quantity('1')) && isQuantity('1Gi') && !isQuantity('x')",
        "quantity('1Gi').compareTo(quantity('1024Mi')) == 0 && quantity('50k').add(20).asInteger() == 50020",
        "quantity('1.5').isInteger() == false && quantity('-1').sign() == -1",
        "url('https://example.com:80/a?b=c').getPort() == '80' && isURL('/path') && !isURL('x y')",
        "url('https://[::1]:80/a/b').getHostname() == '::1' && url('https://e.com/p?k=1&k=2').getQuery()['k'].size() == 2",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('1.2.3') && ip('::1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-rc.1').compareTo(semver('1.0.0')) == -1",
        "isSemver('v1.0', true) && !isSemver('v1.0') && semver('1.2.3').minor() == 2",
        "!format.dns1123Label().validate('web').hasValue() && format.dns1123Label().validate('Web!').hasValue()",
        "format.named('uuid').hasValue() && !format.named('nope').hasValue()",
        "[1, 2, 3].isSorted() && [1, 2, 3].sum() == 6 && [3, 1].min() == 1 && [3, 1].max() == 3",
        "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && !sets.intersects([1], [2])",
        "self.items.all(i, v, v.n == i + 1) && self.limits.exists(k, v, k == 'cpu' && v == '500m')",
        "[1, 2].transformList(i, v, i * v) == [0, 2] && {'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "r'\\d' == '\\\\d' && b'ab' == bytes('ab') && '\\u00e9' == 'é' && \"\"\"a\"b\"\"\" == 'a\"b'",
        "dyn(1) != 'a' && null == null && self.ratio < 1 // a remark",
    ];
    let faults: Vec<_> =
        rows.map(|row| (row, run(row, &me))).into_iter().filter(|(_, out)| *out != Ok(Val::Bool(true))).collect();
    assert_eq!(faults, []);
}

#[test]
fn faults_are_told() {
    let rows = [
        ("foo == 1", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')"),
        ("self.a.nope()", "ERROR: <input>:1:7: undeclared reference to 'nope' (in container '')"),
        ("1 +", "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>'"),
        ("(1", "ERROR: <input>:1:3: Syntax error: mismatched input <EOF> expecting ')'"),
        ("'a", "ERROR: <input>:1:1: Syntax error: unterminated string"),
        ("1 # 2", "ERROR: <input>:1:3: Syntax error: token recognition error at: '#'"),
        ("self.missing == 1", "no such key: missing"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("1 + 'a' == 'b'", "no such overload: int + string"),
        ("[1][3] == 1", "index out of bounds: 3"),
        ("self.all(x, x)", "no such overload: a condition of type string"),
    ];
    for (source, expected) in rows {
        assert_eq!(run(source, &json!({"k": 1})).unwrap_err(), expected, "{source}");
    }
}

#[test]
fn what_costs_too_much_ends() {
    let items: Vec<i64> = (0..2000).collect();
    let me = json!({ "items": items });
    let bombs = [
        "self.items.all(a, self.items.all(b, self.items.all(c, a + b + c >= 0)))",
        "self.items.map(a, self.items.map(b, self.items)).size() > 0",
        "'aaaaaaaaaa'.matches('(a*)*b') || self.items.all(a, self.items.all(b, string(a).matches('x*') && b >= 0))",
    ];
    for bomb in bombs {
        let begun = std::time::Instant::now();
        assert_eq!(run(bomb, &me).unwrap_err(), EvalError::Cost.to_string(), "{bomb}");
        assert!(begun.elapsed().as_secs() < 60, "{bomb}");
    }
    let doubled = format!("{}'x'{}", "(".repeat(5000), ")".repeat(5000));
    assert!(run(&doubled, &me).unwrap_err().contains("nests too deeply"));
    assert!(run(&"!".repeat(5000), &me).is_err() && run(&"[".repeat(5000), &me).is_err());
    assert!(run(&format!("1{}", "+1".repeat(20_000)), &me).is_err());
}

proptest::proptest! {
    /// No text makes the compiler or an evaluation panic.
    #[test]
    fn any_text_is_compiled_or_refused(source in "[-a-z0-9_ .()\\[\\]{}?:,'\"+*/%<>=!&|\\\\]{0,60}") {
        let _ = run(&source, &json!({"a": [1, "x", {"b": null}]}));
    }
}
