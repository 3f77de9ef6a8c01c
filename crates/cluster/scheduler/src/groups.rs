//! Pods with the same namespace and labels are one group: what selects one of them selects all, so a selector is asked once.

use std::cell::RefCell;
use std::collections::BTreeMap;

use resources::Value;

use crate::pods::PodFacts;

pub type GroupId = usize;

#[derive(Debug, Clone)]
pub struct Group {
    pub namespace: String,
    pub labels: Value,
    /// Pods that are being deleted are not counted where pods are spread.
    pub terminating: bool,
    pods: usize,
}

#[derive(Debug, Clone, Default)]
pub struct Groups {
    all: Vec<Group>,
    by_text: BTreeMap<String, GroupId>,
    free: Vec<GroupId>,
}

fn text(pod: &PodFacts) -> String {
    format!("{}\n{}\n{}", pod.namespace(), u8::from(pod.terminating), pod.labels())
}

impl Groups {
    /// The group of a pod, which is in it from now on.
    pub fn join(&mut self, pod: &PodFacts) -> GroupId {
        let text = text(pod);
        if let Some(id) = self.by_text.get(&text) {
            self.all[*id].pods += 1;
            return *id;
        }
        let group = Group {
            namespace: pod.namespace().to_owned(),
            labels: pod.labels().clone(),
            terminating: pod.terminating,
            pods: 1,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id] = group;
                id
            }
            None => {
                self.all.push(group);
                self.all.len() - 1
            }
        };
        self.by_text.insert(text, id);
        id
    }

    pub fn leave(&mut self, id: GroupId) {
        let group = &mut self.all[id];
        group.pods -= 1;
        if group.pods == 0 {
            let text = format!("{}\n{}\n{}", group.namespace, u8::from(group.terminating), group.labels);
            self.by_text.remove(&text);
            self.free.push(id);
        }
    }
}

/// Asks a question about groups, each once.
pub struct Asked<'a> {
    groups: &'a Groups,
    question: Box<dyn Fn(&Group) -> bool + 'a>,
    answers: RefCell<Vec<Option<bool>>>,
}

impl<'a> Asked<'a> {
    pub fn new(groups: &'a Groups, question: impl Fn(&Group) -> bool + 'a) -> Self {
        Self { groups, question: Box::new(question), answers: RefCell::new(vec![None; groups.all.len()]) }
    }

    pub fn holds(&self, id: GroupId) -> bool {
        let mut answers = self.answers.borrow_mut();
        *answers[id].get_or_insert_with(|| (self.question)(&self.groups.all[id]))
    }

    /// How many of these pods the question holds for.
    pub fn count(&self, groups: &[(GroupId, i64)]) -> i64 {
        groups.iter().filter(|(id, _)| self.holds(*id)).map(|(_, count)| count).sum()
    }

    pub fn count_all(&self, groups: &BTreeMap<GroupId, i64>) -> i64 {
        groups.iter().filter(|(id, _)| self.holds(**id)).map(|(_, count)| count).sum()
    }
}
