//! Carries objects, wave by wave: read, hashed, stored, read back.

use std::{sync::Mutex, time::Duration};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Digest, Digester},
    ops::copy::{
        Context,
        plan::{Item, Plan},
    },
    store::Store,
    vault::{Finding, Trouble},
};

/// Bytes of an object in memory at once; a shorter object is stored in one go.
pub const STEP: usize = 8 << 20;

/// What was carried.
#[derive(Debug, Default)]
pub struct Carried {
    /// Signatures: snapshots that are whole now.
    pub snapshots: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that could not be carried as they are damaged or the other side has something else there.
    pub findings: Vec<Finding>,
    /// Something that was to be carried went meanwhile.
    pub vanished: bool,
}

/// Carries all of `plan`. Stops after a wave in which something had vanished: what follows may need it.
pub fn carry(context: &Context, plan: &Plan, began: Duration) -> Result<Carried> {
    let total = plan.bytes();
    let done: Mutex<Carried> = Mutex::default();
    for wave in &plan.waves {
        context.in_parallel(wave, |item| {
            let outcome = carry_one(context, item);
            let mut done = done.lock().expect("nobody panics while counting");
            match outcome {
                Ok(()) => {
                    done.objects += 1;
                    done.bytes += item.len;
                    done.snapshots += u64::from(item.key.as_str().starts_with("snaps/") && item.key.as_str().ends_with(".sig"));
                }
                Err(e) if e.kind() == ErrorKind::Missing => done.vanished = true,
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Conflict) => {
                    done.findings.push(Finding::of(Trouble::Altered, item.key.as_str(), e.chain()));
                }
                Err(e) => return Err(e),
            }
            context.told(began, done.objects, done.bytes, total, item.key.as_str());
            Ok(())
        })?;
        if done.lock().expect("nobody panics while counting").vanished {
            break;
        }
    }
    Ok(done.into_inner().expect("nobody panicked while counting"))
}

/// Carries one object. `Missing` if the vault has it no longer, `Corrupt` if it is not what its name says, here or there.
fn carry_one(context: &Context, item: &Item) -> Result<()> {
    let key = &item.key;
    let named = |digest: Digest| match item.digest {
        Some(named) if named != digest => Err(Error::corrupt("its content is not what its name or its receipt says; it was not copied")),
        _ => Ok(digest),
    };
    let digest = if item.len <= STEP as u64 {
        let mut bytes = Vec::new();
        let digest = named(each_step(context, &**context.from, item, |step| {
            bytes = step.to_vec();
            Ok(())
        })?)?;
        context.to.put(key, &bytes)?;
        digest
    } else {
        let mut upload = context.to.begin()?;
        let digest = named(each_step(context, &**context.from, item, |step| upload.write(step))?)?;
        upload.commit(key)?;
        digest
    };
    let arrived = each_step(context, &**context.to, item, |_| Ok(())).map_err(|e| match e.kind() {
        ErrorKind::Missing => Error::unavailable(format!("{} took {key} and does not have it", context.to.describe())),
        _ => e,
    })?;
    match arrived == digest {
        true => Ok(()),
        false => Err(Error::corrupt(format!("{} took it and gives back something else", context.to.describe()))),
    }
}

/// Reads the object from `store`, calls `each` with its bytes in pieces, and returns their hash.
pub fn each_step(context: &Context, store: &dyn Store, item: &Item, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<Digest> {
    let mut hash = Digester::default();
    let mut buf = vec![0; STEP.min(usize::try_from(item.len).unwrap_or(STEP))];
    let mut at = 0;
    while at < item.len {
        context.cancel.check()?;
        let n = buf.len().min(usize::try_from(item.len - at).unwrap_or(buf.len()));
        store.get(&item.key, at, &mut buf[..n])?;
        hash.update(&buf[..n]);
        each(&buf[..n])?;
        at += n as u64;
    }
    Ok(hash.finish())
}
