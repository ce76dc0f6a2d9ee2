//! Socket state changes: detects connections that end without FIN or RST (a killed peer, a timeout).

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE,
    },
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns},
    programs::SockOpsContext,
};

use crate::{
    record,
    tables::{CONNECTIONS, is_watched},
};

#[inline(always)]
pub(crate) fn changed(ctx: &SockOpsContext) -> Option<()> {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            if is_watched(ctx.local_port() as u16) {
                // Requests state callbacks for this socket. On failure the agent's sweep removes the connection. The
                // helper replaces all flags, so those of other programs are kept.
                let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
                let _ = ctx.set_cb_flags(flags as i32);
            }
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            // SAFETY: a helper on a valid context.
            let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
            let connection = CONNECTIONS.get_ptr_mut(&cookie)?;
            // SAFETY: a map value. The socket is locked, so egress is not running.
            let connection = unsafe { &mut *connection };
            // SAFETY: no arguments.
            let now_ns = unsafe { bpf_ktime_get_boot_ns() };
            connection.socket_closed(now_ns);
            record::egress(connection, now_ns);
            let _ = CONNECTIONS.remove(&cookie);
        }
        _ => {}
    }
    Some(())
}
