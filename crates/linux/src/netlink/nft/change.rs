//! Changing a table that is there: what is new, what goes, and what has other rules or elements now, in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::{Batch, Chain, DELCHAIN, DELRULE, DELSET, DELSETELEM, Element, Family, NEWSETELEM, Set, Table};
use crate::Result;
use crate::netlink::Socket;

/// What makes one table of another. Everything it takes away is there; what it adds is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub family: Family,
    pub table: String,
    /// With their elements.
    pub new_sets: Vec<Set>,
    /// With their rules.
    pub new_chains: Vec<Chain>,
    /// Chains that have these rules from now on and no others.
    pub other_rules: Vec<Chain>,
    pub remove: BTreeMap<String, Vec<Element>>,
    pub add: BTreeMap<String, Vec<Element>>,
    pub old_chains: Vec<String>,
    pub old_sets: Vec<String>,
}

impl Change {
    pub fn new(family: Family, table: &str) -> Self {
        Self {
            family,
            table: table.to_owned(),
            new_sets: Vec::new(),
            new_chains: Vec::new(),
            other_rules: Vec::new(),
            remove: BTreeMap::new(),
            add: BTreeMap::new(),
            old_chains: Vec::new(),
            old_sets: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.new_sets.is_empty()
            && self.new_chains.is_empty()
            && self.other_rules.is_empty()
            && self.remove.is_empty()
            && self.add.is_empty()
            && self.old_chains.is_empty()
            && self.old_sets.is_empty()
    }

    /// Puts `element` in place of what has its key in the set.
    pub fn exchange(&mut self, set: &str, before: Option<&Element>, after: Option<&Element>) {
        if before == after {
            return;
        }
        for (list, element) in [(&mut self.remove, before), (&mut self.add, after)] {
            if let Some(element) = element {
                list.entry(set.to_owned()).or_default().push(element.clone());
            }
        }
    }
}

/// What makes `old` into `new`. `None`: a set has other types or a chain another hook, and the table is to be replaced whole.
pub fn difference(old: &Table, new: &Table) -> Option<Change> {
    if old.family != new.family || old.name != new.name {
        return None;
    }
    let mut change = Change::new(new.family, &new.name);
    let sets: BTreeMap<&str, &Set> = old.sets.iter().map(|set| (set.name.as_str(), set)).collect();
    for set in &new.sets {
        match sets.get(set.name.as_str()) {
            None => change.new_sets.push(set.clone()),
            Some(before) if before.key != set.key || before.data != set.data => return None,
            Some(before) => compare(before, set, &mut change),
        }
    }
    let chains: BTreeMap<&str, &Chain> = old.chains.iter().map(|chain| (chain.name.as_str(), chain)).collect();
    for chain in &new.chains {
        match chains.get(chain.name.as_str()) {
            None => change.new_chains.push(chain.clone()),
            Some(before) if before.hook != chain.hook => return None,
            Some(before) if before.rules != chain.rules => change.other_rules.push(chain.clone()),
            Some(_) => {}
        }
    }
    let sets: BTreeSet<&str> = new.sets.iter().map(|set| set.name.as_str()).collect();
    let chains: BTreeSet<&str> = new.chains.iter().map(|chain| chain.name.as_str()).collect();
    let old_sets = old.sets.iter().filter(|set| !sets.contains(set.name.as_str()));
    change.old_sets = old_sets.map(|set| set.name.clone()).collect();
    let old_chains = old.chains.iter().filter(|chain| !chains.contains(chain.name.as_str()));
    change.old_chains = old_chains.map(|chain| chain.name.clone()).collect();
    Some(change)
}

fn compare(before: &Set, after: &Set, change: &mut Change) {
    if before.elements == after.elements {
        return;
    }
    // The end of a range and the beginning of another may have the same key.
    let keyed = |set: &Set| -> BTreeMap<_, _> {
        let key = |element: &Element| (element.key.clone(), element.value == super::Value::End);
        set.elements.iter().map(|element| (key(element), element.clone())).collect()
    };
    let (old, new) = (keyed(before), keyed(after));
    for (key, element) in &old {
        change.exchange(&after.name, Some(element), new.get(key));
    }
    for (_, element) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        change.exchange(&after.name, None, Some(element));
    }
}

impl Socket {
    /// Carries a change out, all of it or nothing. Fails, among others with ENOENT, where the table is not what it is taken for.
    pub fn change_table(&mut self, change: &Change) -> Result<()> {
        let mut batch = Batch::new(change.family);
        let table = change.table.as_str();
        // Before anything that names them: sets, then chains.
        for (id, set) in change.new_sets.iter().enumerate() {
            batch.set(table, set, id as u32 + 1);
        }
        for chain in &change.new_chains {
            batch.chain(table, chain);
        }
        for (set, elements) in &change.remove {
            batch.elements(DELSETELEM, table, set, elements);
        }
        for set in &change.new_sets {
            batch.contents(table, set);
        }
        for (set, elements) in &change.add {
            batch.elements(NEWSETELEM, table, set, elements);
        }
        let emptied = change.other_rules.iter().map(|chain| &chain.name).chain(&change.old_chains);
        for chain in emptied {
            batch.push(DELRULE, 0, |message| {
                message.string(1, table);
                message.string(2, chain);
            });
        }
        for chain in change.new_chains.iter().chain(&change.other_rules) {
            for rule in &chain.rules {
                batch.rule(table, &chain.name, rule);
            }
        }
        for chain in &change.old_chains {
            batch.push(DELCHAIN, 0, |message| {
                message.string(1, table);
                message.string(3, chain);
            });
        }
        for set in &change.old_sets {
            batch.push(DELSET, 0, |message| {
                message.string(1, table);
                message.string(2, set);
            });
        }
        self.commit(batch, format_args!("change nftables table {table}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Data, Expr, Field, Type, Value};
    use super::*;

    fn table(sets: &[(&str, &[u16])], chains: &[(&str, usize)]) -> Table {
        let sets = sets.iter().map(|(name, ports)| Set {
            name: (*name).into(),
            key: vec![Type::Port],
            data: Data::None,
            elements: ports.iter().map(|port| Element { key: vec![Field::Port(*port)], value: Value::None }).collect(),
        });
        let chains = chains.iter().map(|(name, rules)| Chain {
            name: (*name).into(),
            hook: None,
            rules: vec![vec![Expr::Counter]; *rules],
        });
        Table { family: Family::Inet, name: "t".into(), sets: sets.collect(), chains: chains.collect() }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let old = table(&[("a", &[1, 2]), ("b", &[])], &[("x", 1), ("y", 1)]);
        assert!(difference(&old, &old).unwrap().is_empty());
        let new = table(&[("a", &[2, 3]), ("c", &[7])], &[("x", 2), ("z", 1)]);
        let change = difference(&old, &new).unwrap();
        let ports = |list: &BTreeMap<String, Vec<Element>>| {
            format!("{:?}", list.values().flatten().map(|e| &e.key).collect::<Vec<_>>())
        };
        assert_eq!((ports(&change.remove), ports(&change.add)), ("[[Port(1)]]".into(), "[[Port(3)]]".into()));
        assert_eq!(change.new_sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>(), ["c"]);
        assert_eq!(change.new_chains.iter().map(|chain| chain.name.as_str()).collect::<Vec<_>>(), ["z"]);
        assert_eq!(change.other_rules.iter().map(|chain| chain.name.as_str()).collect::<Vec<_>>(), ["x"]);
        assert_eq!((change.old_chains, change.old_sets), (vec!["y".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn another_type_means_another_table() {
        let (old, mut new) = (table(&[("a", &[])], &[]), table(&[("a", &[])], &[]));
        new.sets[0].key = vec![Type::Ipv4];
        assert_eq!(difference(&old, &new), None);
    }
}
