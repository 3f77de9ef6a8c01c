//! Puts a table in place, changes what differs, and puts it back when somebody else took something out of it.

use linux::netlink::Socket;
use linux::netlink::nft::{Change, Family, Table};
use linux::netlink::watch::{News, RulesetWatch};

/// One table in the kernel.
#[derive(Debug)]
pub struct Applied {
    table: String,
    socket: Option<Socket>,
    /// The table is what it is taken for, as far as we know.
    sure: bool,
}

impl Applied {
    pub fn new(table: &str) -> Self {
        Self { table: table.to_owned(), socket: None, sure: false }
    }

    fn socket(&mut self) -> linux::Result<&mut Socket> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(Socket::netfilter()?)),
        }
    }

    /// Carries a change out, or puts the whole table in place where there is nothing to change, or something else than thought.
    pub fn change(&mut self, change: &Change, whole: impl FnOnce() -> Table) -> linux::Result<()> {
        if self.sure {
            if change.is_empty() {
                return Ok(());
            }
            match self.socket()?.change_table(change) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!(%error, table = self.table, "replacing the whole table"),
            }
        }
        self.replace(&whole())
    }

    pub fn replace(&mut self, table: &Table) -> linux::Result<()> {
        self.sure = false;
        self.socket()?.replace_table(table)?;
        self.sure = true;
        Ok(())
    }

    pub fn remove(&mut self) -> linux::Result<()> {
        self.sure = false;
        let table = self.table.clone();
        self.socket()?.remove_table(Family::Inet, &table)
    }

    /// Reads what happened to the table. Whether it has to be put back.
    pub fn is_lost(&mut self, watch: &mut RulesetWatch) -> linux::Result<bool> {
        if !self.sure {
            return Ok(false);
        }
        let own = self.socket()?.port()?;
        let lost = match watch.news(&self.table, own)? {
            News::Nothing => false,
            News::Removed => true,
            // More happened than could be told, as after a large change of our own.
            News::Overrun => {
                let table = self.table.clone();
                !self.socket()?.has_table(Family::Inet, &table)?
            }
        };
        self.sure = !lost;
        Ok(lost)
    }
}
