//! What other people's filters of the hook `input` say of a port, said again where published ports are still the host's: before
//! their translation. Pure; `firewall` reads and writes.
//!
//! Every filter at `input` of a table of inet, ip or ip6 becomes three things in our table of the same family (extensions of
//! iptables are of one), named after it (`filter/input` of family inet here):
//!
//! | chain | what it does |
//! |---|---|
//! | `obey/inet/filter/input` | at `prerouting`: packets to published ports of this host go to the next |
//! | `policy/inet/filter/input` | asks the copy, and drops what it leaves undecided if the original's policy is to drop |
//! | `copy/inet/filter/input`, ... | the rules, and those of chains that they jump to, over copies of the sets that they look into |
//!
//! An `accept` ends one filter and the next is asked, in order of priority, as at `input`. What cannot be said again there is a
//! [`Refusal`]: whoever asks for obedience gets [`closed`] instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use linux::netlink::nft::{
    Attributes, Chain, Conntrack, CopiedSet, Data, Expr, Family, ForeignChain, ForeignExpr, ForeignSet, ForeignTable,
    Hook, HookKind, HookPoint, Set, Table, Verdict,
};

use crate::rules::{ANSWER, IpVersion, has_bits, port_map_names, published_rules};

/// After connections are known (−200) and an administrator's own early rules (mangle, −150), before the translation (−100).
const FIRST_PRIORITY: i32 = -140;
const LAST_PRIORITY: i32 = -101;

/// What our tables have beside their own, by family: inet, ip, ip6.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Obeyed([Part; 3]);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    sets: Vec<Set>,
    chains: Vec<Chain>,
}

const FAMILIES: [Family; 3] = [Family::Inet, Family::Ip, Family::Ip6];

impl Obeyed {
    fn part(&mut self, family: Family) -> &mut Part {
        let number = FAMILIES.iter().position(|known| *known == family);
        &mut self.0[number.unwrap_or_default()]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|part| part.chains.is_empty())
    }

    /// The instance's own table with what is of its family, and one more for each other family of which there is something. They
    /// know the published ports themselves: no table sees another's sets.
    pub(crate) fn tables(&self, own: &Table) -> Vec<Table> {
        let others =
            FAMILIES.iter().zip(&self.0).filter(|(family, part)| **family != own.family && !part.chains.is_empty());
        let suffix = |family| if family == Family::Ip { "4" } else { "6" };
        let others = others.map(|(family, _)| {
            let names = port_map_names(suffix(*family));
            let maps = own.sets.iter().filter(|set| names.contains(&set.name));
            Table { family: *family, name: own.name.clone(), sets: maps.cloned().collect(), chains: Vec::new() }
        });
        let mut tables: Vec<Table> = [own.clone()].into_iter().chain(others).collect();
        for table in &mut tables {
            let part = FAMILIES.iter().zip(&self.0).find(|(family, _)| **family == table.family);
            if let Some((_, part)) = part {
                table.sets.extend(part.sets.iter().cloned());
                table.chains.extend(part.chains.iter().cloned());
            }
        }
        tables
    }
}

/// Whether refusals are copied. Kernels before 5.9 do not refuse at `prerouting`: there they drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reject {
    Copied,
    Dropped,
}

/// Why a ruleset cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The chains and sets that make published ports obey these tables' filters.
pub(crate) fn obey(tables: &[ForeignTable], reject: Reject) -> Result<Obeyed, Refusal> {
    let mut filters: Vec<(i32, &ForeignTable, &ForeignChain, bool)> = Vec::new();
    for table in tables {
        for chain in &table.chains {
            let Some(hook) = &chain.hook else { continue };
            // Chains that translate decide nothing of what passes.
            if hook.at == HookPoint::Input as u32 && hook.kind == "filter" && !(hook.accept && chain.rules.is_empty()) {
                filters.push((hook.priority, table, chain, hook.accept));
            }
        }
    }
    filters.sort_by_key(|(priority, ..)| *priority);
    let mut obeyed = Obeyed::default();
    let mut copied = BTreeSet::new();
    for (number, (_, table, chain, accept)) in filters.into_iter().enumerate() {
        let priority = FIRST_PRIORITY.saturating_add(i32::try_from(number).unwrap_or(i32::MAX)).min(LAST_PRIORITY);
        let (base, policy) = (name("obey", table, &chain.name), name("policy", table, &chain.name));
        let part = obeyed.part(table.family);
        part.chains.push(entrance(base, priority, table.family, &policy));
        let mut asked = vec![vec![Expr::Verdict(Verdict::Jump(name("copy", table, &chain.name)))]];
        if !accept {
            asked.push(vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]);
        }
        part.chains.push(Chain { name: policy, hook: None, rules: asked });
        copy_from(table, &chain.name, reject, &mut copied, part)?;
    }
    Ok(obeyed)
}

/// For a ruleset that cannot be followed: what was let in goes on, nobody else gets in.
pub(crate) fn closed() -> Obeyed {
    let mut answers = has_bits(Conntrack::State, ANSWER).to_vec();
    answers.push(Expr::Verdict(Verdict::Accept));
    let rest = vec![Expr::Counter, Expr::Verdict(Verdict::Drop)];
    let mut obeyed = Obeyed::default();
    obeyed.part(Family::Inet).chains = vec![
        entrance("obey".into(), FIRST_PRIORITY, Family::Inet, "shut"),
        Chain { name: "shut".into(), hook: None, rules: vec![answers, rest] },
    ];
    obeyed
}

/// Packets that a published port would take, and that a table of this family would see.
fn entrance(name: String, priority: i32, family: Family, then: &str) -> Chain {
    let versions = match family {
        Family::Ip => &[IpVersion::V4][..],
        Family::Ip6 => &[IpVersion::V6],
        Family::Inet | Family::Bridge => &[IpVersion::V4, IpVersion::V6],
    };
    let then = Expr::Verdict(Verdict::Goto(then.to_owned()));
    Chain {
        name,
        hook: Some(Hook { kind: HookKind::Filter, at: HookPoint::Prerouting, priority, accept: true }),
        rules: versions.iter().flat_map(|version| published_rules(*version, &then)).collect(),
    }
}

fn name(what: &str, table: &ForeignTable, of: &str) -> String {
    format!("{what}/{}/{}/{of}", family_name(table.family), table.name)
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Ip6 => "ip6",
        Family::Bridge => "bridge",
    }
}

/// Copies a chain with all that it leads to. `copied`: names of chains and sets that have been.
fn copy_from(
    table: &ForeignTable,
    first: &str,
    reject: Reject,
    copied: &mut BTreeSet<String>,
    part: &mut Part,
) -> Result<(), Refusal> {
    let chains: BTreeMap<&str, &ForeignChain> = table.chains.iter().map(|chain| (&*chain.name, chain)).collect();
    let sets: BTreeMap<&str, &ForeignSet> = table.sets.iter().map(|set| (&*set.name, set)).collect();
    let mut waiting = vec![first.to_owned()];
    while let Some(next) = waiting.pop() {
        let copy = name("copy", table, &next);
        let Some(chain) = chains.get(&*next).filter(|_| copied.insert(copy.clone())) else { continue };
        let mut rules = Vec::new();
        for (number, rule) in chain.rules.iter().enumerate() {
            let at = |what: String| {
                let (family, table) = (family_name(table.family), &table.name);
                Refusal(format!("rule {} of chain {next} in table {family} {table} {what}", number + 1))
            };
            let mut leads = Leads::default();
            rules.push(copy_rule(table, rule, reject, &mut leads).map_err(at)?);
            waiting.append(&mut leads.chains);
            for wanted in leads.sets {
                let copy = name("copy", table, &wanted);
                if !copied.insert(format!("set {copy}")) {
                    continue;
                }
                let set =
                    sets.get(&*wanted).ok_or_else(|| at(format!("looks into a set that is not there: {wanted}")))?;
                let data = copy_set(table, set, &mut waiting).map_err(at)?;
                part.sets.push(Set { name: copy, key: Vec::new(), data, elements: Vec::new() });
            }
        }
        part.chains.push(Chain { name: copy, hook: None, rules });
    }
    Ok(())
}

/// Where a rule leads.
#[derive(Debug, Default)]
struct Leads {
    chains: Vec<String>,
    sets: Vec<String>,
}

/// Expressions that look at a packet, or count for themselves, and mean the same at `prerouting`.
const LOOKING: [&str; 18] = [
    "bitwise",
    "byteorder",
    "cmp",
    "connlimit",
    "ct",
    "exthdr",
    "fib",
    "hash",
    "inner",
    "limit",
    "log",
    "meta",
    "numgen",
    "osf",
    "payload",
    "range",
    "tunnel",
    "xfrm",
];

/// The attribute by which an expression writes to packets or connections instead of reading them.
const WRITES: [(&str, u16); 4] = [("meta", 3), ("ct", 4), ("payload", 5), ("exthdr", 7)];

fn copy_rule(
    table: &ForeignTable,
    rule: &[ForeignExpr],
    reject: Reject,
    leads: &mut Leads,
) -> Result<Vec<Expr>, String> {
    const NFTRACE: u32 = 13;
    let mut copy = Vec::new();
    let mut extensions = false;
    for expr in rule {
        let ForeignExpr { name: kind, data } = expr;
        let as_it_is = || Expr::Copied { name: kind.clone(), data: data.clone() };
        if WRITES.iter().any(|(writer, source)| writer == kind && data.get(*source).is_some()) {
            // Somebody looks for a fault: what is traced changes no verdict.
            if kind == "meta" && data.be32(2) == Some(NFTRACE) {
                continue;
            }
            return Err(format!("changes packets or connections ({kind})"));
        }
        match kind.as_str() {
            "immediate" => copy.push(copy_verdict(table, data, leads)?),
            "lookup" => {
                const SET_ID: u16 = 4;
                let set = data.string(1).unwrap_or_default();
                let mut data = data.clone();
                data.set_string(1, &name("copy", table, &set));
                data.remove(SET_ID);
                leads.sets.push(set);
                copy.push(Expr::Copied { name: kind.clone(), data });
            }
            // Counted anew: what others have counted is no reason to write all again.
            "counter" => copy.push(Expr::Counter),
            "last" | "quota" => copy.push(Expr::Copied { name: kind.clone(), data: without_state(kind, data) }),
            "reject" if reject == Reject::Dropped => copy.push(Expr::Verdict(Verdict::Drop)),
            "reject" => copy.push(as_it_is()),
            // Extensions of iptables.
            "match" if data.string(1).as_deref() == Some("comment") => {}
            "match" => {
                extensions = true;
                copy.push(as_it_is());
            }
            "target" => match data.string(1).unwrap_or_default().as_str() {
                "LOG" | "NFLOG" => {}
                "REJECT" => copy.push(Expr::Verdict(Verdict::Drop)),
                other => return Err(format!("has the target {other}")),
            },
            looking if LOOKING.contains(&looking) => copy.push(as_it_is()),
            other => return Err(format!("has an expression that cannot be copied ({other})")),
        }
    }
    if extensions && let Some(protocol) = protocol_of(rule) {
        copy.push(Expr::Compat(protocol));
    }
    Ok(copy)
}

/// The transport protocol that a rule asks for, which extensions of iptables want to be told.
fn protocol_of(rule: &[ForeignExpr]) -> Option<u8> {
    const TRANSPORT_PROTOCOL: u32 = 16;
    rule.windows(2).find_map(|pair| {
        let asks = pair[0].name == "meta" && pair[0].data.be32(2) == Some(TRANSPORT_PROTOCOL) && pair[1].name == "cmp";
        match pair[1].data.nested(3)?.get(1)? {
            [protocol] if asks && pair[1].data.be32(2) == Some(0) => Some(*protocol),
            _ => None,
        }
    })
}

fn without_state(kind: &str, data: &Attributes) -> Attributes {
    let mut data = data.clone();
    match kind {
        "counter" | "last" => data.keep(&[]),
        "quota" => data.keep(&[1, 2]),
        _ => {}
    }
    data
}

/// A verdict or a value, as an expression or an element of a map has it: attribute 2.
fn copy_verdict(table: &ForeignTable, data: &Attributes, leads: &mut Leads) -> Result<Expr, String> {
    let mut data = data.clone();
    map_verdict(table, &mut data, &mut leads.chains)?;
    Ok(Expr::Copied { name: "immediate".into(), data })
}

fn map_verdict(table: &ForeignTable, holder: &mut Attributes, chains: &mut Vec<String>) -> Result<(), String> {
    const DROP: i32 = 0;
    const ACCEPT: i32 = 1;
    let Some(mut value) = holder.nested(2) else { return Ok(()) };
    let Some(mut verdict) = value.nested(2) else { return Ok(()) };
    match verdict.be32(1).map(|code| code as i32) {
        // Continue, break, jump, goto, return.
        Some(DROP | ACCEPT | -5..=-1) => {}
        _ => return Err("hands packets to a program (queue)".into()),
    }
    if let Some(chain) = verdict.string(2) {
        verdict.set_string(2, &name("copy", table, &chain));
        verdict.keep(&[1, 2]);
        value.set(2, verdict.bytes());
        holder.set(2, value.bytes());
        chains.push(chain);
    }
    Ok(())
}

fn copy_set(table: &ForeignTable, set: &ForeignSet, chains: &mut Vec<String>) -> Result<Data, String> {
    const ANONYMOUS: u32 = 1;
    const CONSTANT: u32 = 2;
    const INTERVAL: u32 = 4;
    const EVAL: u32 = 0x20;
    const OBJECT: u32 = 0x40;
    const CONCATENATION: u32 = 0x80;
    const FLAGS: u16 = 3;
    const EXPRESSIONS: [u16; 2] = [17, 18];
    let flags = set.attributes.be32(FLAGS).unwrap_or_default();
    if flags & EVAL != 0 {
        return Err(format!("looks into a set that rules write as packets pass ({})", set.name));
    }
    if flags & OBJECT != 0 {
        return Err(format!("looks into a map of objects ({})", set.name));
    }
    let mut attributes = set.attributes.clone();
    // Flags, types and lengths, policy, description, times, nft's own notes, expressions of every element.
    attributes.keep(&[FLAGS, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 18]);
    attributes.set(FLAGS, (flags & !(ANONYMOUS | CONSTANT)).to_be_bytes().to_vec());
    let counts = EXPRESSIONS.iter().any(|kind| attributes.get(*kind).is_some());
    let mut elements = Vec::new();
    for element in &set.elements {
        let mut copy = element.clone();
        // Key, data, flags, times, notes, the key that ends a range; expressions where the set does not give them to each.
        copy.keep(if counts { &[1, 2, 3, 4, 5, 6, 10] } else { &[1, 2, 3, 4, 5, 6, 7, 10, 11] });
        if copy != *element && element.get(9).is_some() {
            return Err(format!("looks into a set whose elements have objects ({})", set.name));
        }
        map_verdict(table, &mut copy, chains)?;
        elements.push(copy);
    }
    if flags & (INTERVAL | CONCATENATION) == INTERVAL {
        // The kernel tells of ranges from above, and takes them from below: an end before the beginning that has its key.
        elements.sort_by_key(|element| {
            let key = element.nested(1).and_then(|key| key.get(1).map(<[u8]>::to_vec));
            (key.is_none(), key, element.be32(3).unwrap_or_default() & 1 == 0)
        });
    }
    Ok(Data::Copied(Arc::new(CopiedSet { attributes, elements })))
}

#[cfg(test)]
mod tests {
    use linux::netlink::nft::ForeignHook;

    use super::*;

    fn attributes(list: &[(u16, &[u8])]) -> Attributes {
        let mut all = Attributes::default();
        list.iter().for_each(|(kind, value)| all.set(*kind, value.to_vec()));
        all
    }

    fn expr(name: &str, data: &[(u16, &[u8])]) -> ForeignExpr {
        ForeignExpr { name: name.into(), data: attributes(data) }
    }

    /// Attribute 2 of an immediate or of an element: a verdict.
    fn verdict_value(code: i32, chain: &str) -> Vec<u8> {
        let mut verdict = attributes(&[(1, &code.to_be_bytes())]);
        if !chain.is_empty() {
            verdict.set_string(2, chain);
        }
        attributes(&[(2, &verdict.bytes())]).bytes()
    }

    fn verdict(code: i32, chain: &str) -> ForeignExpr {
        expr("immediate", &[(1, &[0; 4]), (2, &verdict_value(code, chain))])
    }

    fn lookup(set: &str) -> ForeignExpr {
        expr("lookup", &[(1, format!("{set}\0").as_bytes()), (2, &[0, 0, 0, 8]), (4, &[0, 0, 0, 1])])
    }

    fn chain(name: &str, rules: &[&[ForeignExpr]]) -> ForeignChain {
        ForeignChain { name: name.into(), hook: None, rules: rules.iter().map(|rule| rule.to_vec()).collect() }
    }

    fn filter(name: &str, priority: i32, accept: bool, rules: &[&[ForeignExpr]]) -> ForeignChain {
        let hook = ForeignHook { kind: "filter".into(), at: HookPoint::Input as u32, priority, accept };
        ForeignChain { hook: Some(hook), ..chain(name, rules) }
    }

    fn set(name: &str, flags: u32, elements: Vec<Attributes>) -> ForeignSet {
        let attributes =
            attributes(&[(3, &flags.to_be_bytes()), (4, &[0, 0, 0, 13]), (5, &[0, 0, 0, 2]), (16, &[0; 8])]);
        ForeignSet { name: name.into(), attributes, elements }
    }

    fn table(family: Family, name: &str, chains: Vec<ForeignChain>, sets: Vec<ForeignSet>) -> ForeignTable {
        ForeignTable { family, name: name.into(), chains, sets }
    }

    /// One line a chain: its priority, and how each rule ends.
    fn shown(obeyed: &Obeyed) -> Vec<String> {
        let ends = |rule: &Vec<Expr>| match rule.last() {
            Some(Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))) => chain.clone(),
            Some(Expr::Copied { name, data }) => {
                let verdict = data.nested(2).and_then(|value| value.nested(2));
                let leads = verdict.and_then(|verdict| verdict.string(2)).or_else(|| data.string(1));
                let leads = leads.filter(|_| name == "lookup" || data.get(2).is_some_and(|value| value.len() > 16));
                format!("{name} {}", leads.unwrap_or_default()).trim_end().to_owned()
            }
            other => format!("{other:?}"),
        };
        let mut lines = Vec::new();
        for (family, part) in FAMILIES.iter().zip(&obeyed.0) {
            lines.extend(part.sets.iter().map(|set| format!("{} set {}", family_name(*family), set.name)));
            for chain in &part.chains {
                let priority = chain.hook.map(|hook| format!(" at {}", hook.priority)).unwrap_or_default();
                let rules: Vec<String> = chain.rules.iter().map(ends).collect();
                lines.push(format!("{}{priority}: {}", chain.name, rules.join(", ")));
            }
        }
        lines
    }

    fn refusal(rule: &[ForeignExpr], sets: Vec<ForeignSet>) -> String {
        let chains = vec![filter("input", 0, true, &[&[expr("counter", &[])], rule])];
        obey(&[table(Family::Inet, "t", chains, sets)], Reject::Copied).unwrap_err().to_string()
    }

    #[test]
    fn filters_are_said_again_with_what_they_lead_to() {
        let late = filter("late", 10, true, &[&[verdict(-4, "services")]]);
        let early =
            filter("input", -5, false, &[&[lookup("ports"), verdict(1, "")], &[lookup("map")], &[verdict(-5, "")]]);
        let services = chain("services", &[&[expr("reject", &[(1, &[0; 4])])]]);
        // Nobody leads there: what cannot be copied is no matter.
        let unused = chain("unused", &[&[expr("dynset", &[])]]);
        let element = attributes(&[(1, &attributes(&[(1, &[0, 80])]).bytes()), (2, &verdict_value(-3, "services"))]);
        let sets = vec![set("ports", 3, Vec::new()), set("map", 11, vec![element]), set("other", 0x20, Vec::new())];
        let mut elsewhere = filter("before", 0, false, &[&[verdict(0, "")]]);
        elsewhere.hook.as_mut().unwrap().at = HookPoint::Prerouting as u32;
        let mut nat = filter("nat", 0, true, &[&[expr("masq", &[])]]);
        nat.hook.as_mut().unwrap().kind = "nat".into();
        let tables = [
            table(Family::Inet, "t", vec![late, elsewhere, nat, early, services, unused], sets),
            table(
                Family::Ip6,
                "six",
                vec![filter("INPUT", 0, false, &[]), filter("nothing", 0, true, &[])],
                Vec::new(),
            ),
        ];
        let obeyed = obey(&tables, Reject::Copied).unwrap();
        assert_eq!(
            shown(&obeyed),
            [
                "inet set copy/inet/t/ports",
                "inet set copy/inet/t/map",
                "obey/inet/t/input at -140: policy/inet/t/input, policy/inet/t/input, policy/inet/t/input, policy/inet/t/input",
                "policy/inet/t/input: copy/inet/t/input, Some(Verdict(Drop))",
                "copy/inet/t/input: immediate, lookup copy/inet/t/map, immediate",
                "copy/inet/t/services: reject",
                "obey/inet/t/late at -138: policy/inet/t/late, policy/inet/t/late, policy/inet/t/late, policy/inet/t/late",
                "policy/inet/t/late: copy/inet/t/late",
                "copy/inet/t/late: immediate copy/inet/t/services",
                "obey/ip6/six/INPUT at -139: policy/ip6/six/INPUT, policy/ip6/six/INPUT",
                "policy/ip6/six/INPUT: copy/ip6/six/INPUT, Some(Verdict(Drop))",
                "copy/ip6/six/INPUT: ",
            ]
        );
        let Data::Copied(copied) = &obeyed.0[0].sets[1].data else { panic!() };
        let CopiedSet { attributes, elements } = &**copied;
        assert_eq!(
            (attributes.be32(3), attributes.get(16)),
            (Some(8), None),
            "no longer anonymous, no kernel's own notes"
        );
        let verdict = elements[0].nested(2).and_then(|value| value.nested(2)).unwrap();
        assert_eq!(verdict.string(2).as_deref(), Some("copy/inet/t/services"));
        let dropping = obey(&tables, Reject::Dropped).unwrap();
        assert!(shown(&dropping).contains(&"copy/inet/t/services: Some(Verdict(Drop))".to_owned()));
        assert_eq!(shown(&obey(&[], Reject::Copied).unwrap()), [""; 0], "nobody filters: nothing is in the way");
    }

    #[test]
    fn what_cannot_be_said_again_is_refused() {
        let meta = |key: u32, source: bool| {
            let attribute = if source { 3 } else { 1 };
            expr("meta", &[(2, &key.to_be_bytes()), (attribute, &[0, 0, 0, 8])])
        };
        let with_object = attributes(&[(1, &[0; 8]), (9, b"seen\0")]);
        for (rule, sets, why) in [
            (vec![expr("objref", &[])], Vec::new(), "has an expression that cannot be copied (objref)"),
            (vec![expr("dynset", &[])], Vec::new(), "has an expression that cannot be copied (dynset)"),
            (vec![expr("unheard-of", &[])], Vec::new(), "has an expression that cannot be copied (unheard-of)"),
            (vec![meta(3, true)], Vec::new(), "changes packets or connections (meta)"),
            (vec![verdict(3, "")], Vec::new(), "hands packets to a program (queue)"),
            (vec![expr("target", &[(1, b"TPROXY\0")])], Vec::new(), "has the target TPROXY"),
            (vec![lookup("s")], Vec::new(), "looks into a set that is not there: s"),
            (
                vec![lookup("s")],
                vec![set("s", 0x20, Vec::new())],
                "looks into a set that rules write as packets pass (s)",
            ),
            (vec![lookup("s")], vec![set("s", 0x48, Vec::new())], "looks into a map of objects (s)"),
            (
                vec![lookup("s")],
                vec![set("s", 0, vec![with_object])],
                "looks into a set whose elements have objects (s)",
            ),
        ] {
            assert_eq!(refusal(&rule, sets), format!("rule 2 of chain input in table inet t {why}"));
        }
        // What only looks, counts or tells is no hindrance.
        let rule =
            [meta(16, false), meta(13, true), expr("counter", &[(1, &[9; 8])]), expr("target", &[(1, b"LOG\0")])];
        let copy =
            copy_rule(&table(Family::Ip, "t", Vec::new(), Vec::new()), &rule, Reject::Copied, &mut Leads::default());
        assert_eq!(copy.unwrap().last(), Some(&Expr::Counter));
    }

    #[test]
    fn an_extension_of_iptables_is_told_the_protocol() {
        let value = attributes(&[(1, &[6])]).bytes();
        let rule = [
            expr("meta", &[(2, &16u32.to_be_bytes()), (1, &[0, 0, 0, 8])]),
            expr("cmp", &[(1, &[0, 0, 0, 8]), (2, &[0; 4]), (3, &value)]),
            expr("match", &[(1, b"comment\0")]),
            expr("match", &[(1, b"multiport\0")]),
        ];
        let copy =
            copy_rule(&table(Family::Ip, "t", Vec::new(), Vec::new()), &rule, Reject::Copied, &mut Leads::default());
        let copy = copy.unwrap();
        assert_eq!((copy.len(), copy.last()), (4, Some(&Expr::Compat(6))));
    }

    #[test]
    fn ranges_are_put_in_from_below() {
        let element = |port: u8, end: bool| {
            let flags = u32::from(end).to_be_bytes();
            attributes(&[(1, &attributes(&[(1, &[0, port])]).bytes()), (3, &flags)])
        };
        let from_above = [(31, true), (30, false), (21, true), (21, false), (10, false), (0, true)];
        let told: Vec<_> = from_above.iter().map(|(port, end)| element(*port, *end)).collect();
        let table = table(Family::Inet, "t", Vec::new(), Vec::new());
        let Data::Copied(copied) = copy_set(&table, &set("s", 4, told), &mut Vec::new()).unwrap() else { panic!() };
        let from_below = [(0, true), (10, false), (21, true), (21, false), (30, false), (31, true)];
        assert_eq!(copied.elements, from_below.map(|(port, end)| element(port, end)));
    }
}
