//! System calls and allocations per request, counted.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::{RequestsArgs, WARM_UP, crowd::Pace, seats::Seat};
use crate::beside::{
    cores,
    ground::Ground,
    servers::Server,
    strace::{RECEIVES, SENDS, Strace, calls},
    table::Table,
};

/// Exported by a gateway that was built with the feature `count-allocations`.
const ALLOCATIONS: &str = "towline_allocations_total";
const ALLOCATED: &str = "towline_allocated_bytes_total";
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// One row for each server.
pub(super) fn table(args: &RequestsArgs, ground: &Ground, seats: &[Seat]) -> Table {
    let columns = ["sends", "receives", "waits", "all calls", "allocations", "allocated bytes"];
    let mut table = Table::new("Per request: system calls, and allocations where they are counted", &columns);
    for seat in seats {
        let Some(server) = &seat.server else { continue };
        args.common.say(&format!("requests: counting, {} {}", seat.case, seat.name));
        let server = server.as_ref().as_ref().map_err(String::clone);
        let figures =
            server.and_then(|server| cores::on(ground.cores.load, || count(args, ground, seat, server)));
        table.row(seat.case, seat.name, figures);
    }
    table.note("As strace counts them, which slows the server down: busier connections send more at a time.");
    table.note("Allocations are those of a gateway built with --features count-allocations, without strace.");
    table
}

fn count(
    args: &RequestsArgs,
    ground: &Ground,
    seat: &Seat,
    server: &Server,
) -> Result<(Vec<f64>, String), String> {
    let mut crowd = seat.crowd(args)?;
    let pace = Pace::Closed(args.inflight.into());
    crowd.run(pace, WARM_UP)?;
    let before = allocations(server.admin);
    let requests = crowd.run(pace, args.duration)?.requests.max(1) as f64;
    let after = allocations(server.admin);
    let file = ground.folder().join("requests-strace.txt");
    let strace = Strace::attach(server.pid(), &file)?;
    let traced = crowd.run(pace, args.duration)?.requests.max(1) as f64;
    strace.detach()?;
    let text = std::fs::read_to_string(&file).map_err(|error| format!("strace: {error}"))?;
    let sum =
        |names: &[&str]| names.iter().filter_map(|name| calls(&text, name)).sum::<u64>() as f64 / traced;
    let mut figures =
        vec![sum(&SENDS), sum(&RECEIVES), sum(&["epoll_wait", "epoll_pwait", "futex"]), sum(&["total"])];
    if let (Some(before), Some(after)) = (before, after) {
        figures.extend([(after.0 - before.0) / requests, (after.1 - before.1) / requests]);
    }
    Ok((figures, String::new()))
}

/// How often the gateway has allocated so far, and how many bytes.
fn allocations(admin: Option<SocketAddr>) -> Option<(f64, f64)> {
    let mut socket = TcpStream::connect_timeout(&admin?, ADMIN_TIMEOUT).ok()?;
    socket.set_read_timeout(Some(ADMIN_TIMEOUT)).ok()?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    Some((metric(&text, ALLOCATIONS)?, metric(&text, ALLOCATED)?))
}

fn metric(text: &str, name: &str) -> Option<f64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    lines.next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP towline_allocations_total x\ntowline_allocations_total_old 3\ntowline_allocations_total 42\n";
        assert_eq!(metric(text, ALLOCATIONS), Some(42.0));
        assert_eq!(metric(text, ALLOCATED), None);
    }
}
