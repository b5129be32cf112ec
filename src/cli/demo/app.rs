//! The legacy application of the tour: serves its configuration file over HTTP, reads it again on SIGHUP, knows nothing else.
//!
//! It stands for the process an operator may not touch: no registry, no watching of files, one pid file, one signal. It keeps
//! in memory what it read, so that an answer shows what the process really runs with, not what lies on disk.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// What the application is told when it is started.
#[derive(Clone, Debug, clap::Args)]
pub struct App {
    /// Port on 127.0.0.1 to serve on.
    #[arg(long)]
    pub port: u16,
    /// Its configuration file.
    #[arg(long)]
    pub file: PathBuf,
    /// Where it writes its process number.
    #[arg(long)]
    pub pid_file: PathBuf,
}

/// Longest configuration it reads and longest request head it takes.
const LIMIT: u64 = 64 * 1024;

/// Serves until it is killed, or until whoever started it is gone (its standard input ends).
///
/// # Errors
/// When the port, the pid file or the signal cannot be had.
pub fn serve(app: &App) -> io::Result<()> {
    let mut hangups = signal_hook::iterator::Signals::new([signal_hook::consts::SIGHUP])?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, app.port))?;
    let content = Arc::new(Mutex::new(read(app)?));
    let mut pid_file = std::fs::File::create(&app.pid_file)?;
    writeln!(pid_file, "{}", std::process::id())?;

    let (again, from) = (Arc::clone(&content), app.clone());
    thread::spawn(move || {
        for _ in hangups.forever() {
            // A file that cannot be read leaves what is in memory, as many a legacy process does.
            if let Ok(fresh) = read(&from) {
                *again.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
            }
        }
    });
    thread::spawn(|| {
        _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    for connection in listener.incoming() {
        let body = content
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // One connection after the other is enough; a probe that closes without asking is not an error.
        _ = connection.and_then(|stream| answer(stream, &body));
    }
    Ok(())
}

fn read(app: &App) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(&app.file)?
        .take(LIMIT)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut head: Vec<u8> = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut piece)?;
        if count == 0 || head.len() as u64 > LIMIT {
            return Ok(());
        }
        head.extend(piece.iter().take(count));
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
