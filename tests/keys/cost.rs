//! What it costs that who seals cannot read.

use std::time::Duration;

use coffre::{
    pack::{identity_from_bytes, open_whole, seal_whole},
    sys::{Clock, SystemClock},
};

/// The least of several times that `work` took: what the machine did besides does not count.
fn least(work: impl Fn()) -> Duration {
    let once = || {
        let began = SystemClock.monotonic();
        work();
        SystemClock.monotonic() - began
    };
    (0..20).map(|_| once()).min().unwrap()
}

#[test]
fn a_public_key_for_each_pack_costs_a_hundredth_of_its_encryption() {
    let identity = identity_from_bytes(&[9; 32]);
    let recipient = identity.to_public();
    let pack = vec![7; 16 << 20];
    let head = least(|| drop(seal_whole(&[&recipient], &[]).unwrap()));
    let whole = least(|| drop(seal_whole(&[&recipient], &pack).unwrap()));
    let file = seal_whole(&[&recipient], b"x").unwrap();
    let open = least(|| drop(open_whole(&[&identity], &file, "it").unwrap()));
    println!("to start a file {head:?}, to encrypt 16 MiB {whole:?}, to open a file {open:?}");
    // Encryption is a twentieth of a seal; a fiftieth of it would be a thousandth.
    assert!(head * 50 < whole, "{head:?} of {whole:?}");
}
