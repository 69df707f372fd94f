// SPDX-License-Identifier: GPL-2.0-only
// Threads of Rust: channels, a lock, parking, sleeps, a panic that is caught, and sums that must come out right.
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::Duration;

thread_local!(static LOCAL: Cell<u64> = const { Cell::new(0) });

fn block(seed: f64) -> f64 {
    let (mut value, mut total) = (seed, 0.0);
    for step in 1..3000 {
        value = 3.99 * value * (1.0 - value);
        total += value.sqrt() / step as f64;
    }
    total
}

fn main() {
    let over = Arc::new(AtomicBool::new(false));
    let wrong = Arc::new(AtomicU64::new(0));
    let turns = Arc::new(Mutex::new(vec![0u64; 6]));
    let (send, receive) = mpsc::channel::<u64>();
    let mut threads = Vec::new();
    for number in 0..6u64 {
        let (over, wrong, turns, send) = (over.clone(), wrong.clone(), turns.clone(), send.clone());
        threads.push(thread::Builder::new().name(format!("worker {number}")).spawn(move || {
            LOCAL.with(|local| local.set(number));
            let seed = 0.1 + number as f64 / 100.0;
            let right = block(seed);
            while !over.load(Ordering::SeqCst) {
                match number % 3 {
                    0 => thread::sleep(Duration::from_millis(5)),
                    1 => thread::park_timeout(Duration::from_millis(10)),
                    _ => {}
                }
                if block(seed) != right || LOCAL.with(|local| local.get()) != number {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
                turns.lock().unwrap()[number as usize] += 1;
            }
            send.send(number).unwrap();
            thread::current().name().map(str::to_owned)
        }).unwrap());
    }
    let sleeper = thread::spawn(|| thread::park());
    println!("ready");
    while !Path::new("go").exists() {
        thread::sleep(Duration::from_millis(2));
    }
    turns.lock().unwrap().fill(0);
    thread::sleep(Duration::from_millis(200));
    over.store(true, Ordering::SeqCst);
    sleeper.thread().unpark();
    sleeper.join().unwrap();
    let mut names: Vec<_> = threads.into_iter().map(|one| one.join().unwrap().unwrap()).collect();
    names.sort();
    let mut ended: Vec<_> = receive.iter().take(6).collect();
    ended.sort();
    let panicked = thread::spawn(|| std::panic::resume_unwind(Box::new(1))).join().is_err();
    println!(
        "wrong {}, turns of all {}, ended {:?}, {} to {}, panic caught {}",
        wrong.load(Ordering::SeqCst), turns.lock().unwrap().iter().all(|&one| one > 0), ended, names[0], names[5], panicked
    );
}
