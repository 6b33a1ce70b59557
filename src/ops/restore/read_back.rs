//! Reading back what was restored: every byte of every file, from the disk, held against the names of its chunks.

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    error::Result,
    format::Content,
    ops::restore::{apply::Apply, plan::JobNumber, table::Handles},
    sys,
};

impl Apply<'_> {
    /// Reads back every regular file of the window. What differs is a problem of that file.
    pub fn read_back(&self) -> Result<()> {
        self.each(self.options.workers, self.plan.jobs.len(), |hands, n| self.read_one_back(hands, n as JobNumber))
    }

    fn read_one_back(&self, hands: &mut Handles, number: JobNumber) -> Result<()> {
        let job = self.files.job(number);
        if !matches!(job.entry.content, Content::File { .. }) || self.files.is_failed(number) {
            return Ok(());
        }
        let opened = hands.get(job.dir).and_then(|dir| Ok(sys::open_file(&dir, &job.entry.name)?));
        let text = match opened {
            Ok((file, _)) => {
                sys::forget_pages(&file);
                match self.holds(&file, number)? {
                    true => {
                        self.tally.counts.verified.fetch_add(1, Relaxed);
                        return Ok(());
                    }
                    false => "read back, its content is not what the snapshot says".to_owned(),
                }
            }
            Err(e) => format!("cannot be read back: {e}"),
        };
        self.tally.problem(&self.shown(&self.files.path(number)), text);
        Ok(())
    }
}
