//! Configurations of Envoy, as inference gateways configure it.

use std::net::SocketAddr;

/// The cluster `pods`: the endpoint in the header that a picker sets.
pub const ENVOY_PODS: &str = r#"{name: pods, type: ORIGINAL_DST, connect_timeout: 2s, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: {use_http_header: true, http_header_name: x-gateway-destination-endpoint}}"#;

/// The cluster `picker`.
pub fn envoy_picker(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        r#"{{name: picker, type: STATIC, connect_timeout: 2s, typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}, circuit_breakers: {{thresholds: [{{max_requests: 65536, max_connections: 65536, max_pending_requests: 65536}}]}}, load_assignment: {{cluster_name: picker, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}]}}]}}}}"#
    )
}

/// All requests to the cluster `pods`. `filters`: HTTP filters before the router, each with a comma behind it. `socket`: the
/// transport socket of the listener, if it has one.
pub fn envoy_config(listen: SocketAddr, filters: &str, clusters: &[String], socket: &str) -> String {
    let (ip, port, clusters) = (listen.ip(), listen.port(), clusters.join(",\n    "));
    format!(
        r#"static_resources:
  listeners:
  - address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          http_filters: [{filters} {{name: envoy.filters.http.router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: pods, timeout: 0s}}}}]}}]}}
      {socket}
  clusters: [{clusters}]
"#
    )
}
