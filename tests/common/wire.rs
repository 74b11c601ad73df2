//! A wire between a client and a server that can be bad: it is cut, late, silent, or changes bytes. It knows nothing of
//! what is sent over it.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is wrong with the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is cut once, after so many bytes in both directions together.
    Cut(u64),
    /// One byte behind so many is changed.
    Corrupt(u64),
    /// Each piece is late.
    Late(Duration),
    /// Nothing comes through, and nobody is told.
    Silent,
    /// No connection is taken.
    Refused,
}

struct State {
    fault: Mutex<Fault>,
    /// Bytes since the fault was set.
    bytes: AtomicU64,
    total: AtomicU64,
    ends: Mutex<Vec<TcpStream>>,
    done: AtomicBool,
}

/// The wire.
pub struct Wire {
    state: Arc<State>,
    /// Where it begins.
    pub port: u16,
}

impl Wire {
    /// A wire to a port of this machine.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            fault: Mutex::new(Fault::None),
            bytes: AtomicU64::new(0),
            total: AtomicU64::new(0),
            ends: Mutex::default(),
            done: AtomicBool::new(false),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.done.load(Ordering::SeqCst) {
                    return;
                }
                if *shared.fault.lock().unwrap() == Fault::Refused {
                    continue;
                }
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                    connect(&client, &server, &shared);
                }
            }
        });
        Wire { state, port }
    }

    /// From now on this is wrong with it.
    pub fn set(&self, fault: Fault) {
        self.state.bytes.store(0, Ordering::SeqCst);
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Cuts it now.
    pub fn cut(&self) {
        for end in self.state.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Bytes that came through in both directions.
    pub fn total(&self) -> u64 {
        self.state.total.load(Ordering::SeqCst)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.done.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn connect(client: &TcpStream, server: &TcpStream, state: &Arc<State>) {
    let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
    state.ends.lock().unwrap().extend(ends);
    for (from, to) in [(client, server), (server, client)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let state = state.clone();
        std::thread::spawn(move || {
            carry(&from, &to, &state);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, state: &State) {
    let mut piece = [0; 16 << 10];
    loop {
        let Ok(size @ 1..) = from.read(&mut piece) else {
            return;
        };
        let fault = *state.fault.lock().unwrap();
        let before = state.bytes.fetch_add(size as u64, Ordering::SeqCst);
        let here = |at: u64| at.checked_sub(before).filter(|at| *at < size as u64);
        let piece = &mut piece[..size];
        match fault {
            Fault::None => {}
            Fault::Cut(at) => {
                if let Some(at) = here(at) {
                    let _ = to.write_all(&piece[..at as usize]);
                    *state.fault.lock().unwrap() = Fault::None;
                    return;
                }
            }
            Fault::Corrupt(at) => {
                if let Some(at) = here(at) {
                    piece[at as usize] ^= 0x55;
                }
            }
            Fault::Late(time) => std::thread::sleep(time),
            Fault::Silent => continue,
            Fault::Refused => return,
        }
        state.total.fetch_add(piece.len() as u64, Ordering::SeqCst);
        if to.write_all(piece).is_err() {
            return;
        }
    }
}
