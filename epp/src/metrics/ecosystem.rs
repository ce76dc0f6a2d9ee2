//! Metrics under the names of llm-d's picker (`llm_d_epp_`) and of the Gateway API Inference Extension
//! (`inference_pool_`, `inference_extension_`), where the meaning is the same.
//!
//! `name` is the name of the pool. A process of many pools also has the label `namespace`.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, TypedMetric as _, counter::Counter, histogram::Histogram},
};

use super::{Pool, PoolMetrics};
use crate::endpoints::EndpointView;

#[derive(Clone, Debug)]
pub(super) struct Ecosystem(pub(super) PoolMetrics);

/// A pool whose endpoints are known, when the metrics are encoded.
struct Known {
    pool: Pool,
    name: String,
    /// In a process of many pools.
    namespace: Option<String>,
    endpoints: Vec<EndpointView>,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Known {
    fn new(pool: Pool) -> Option<Self> {
        let key = pool.metrics.pool.get()?;
        let (name, namespace) = (key.name.clone(), pool.label.as_ref().map(|_| key.namespace.clone()));
        let endpoints = pool.metrics.endpoints.get()?.endpoints();
        Some(Self { name, namespace, endpoints, pool })
    }

    fn labels(&self) -> Labels<'_> {
        let mut labels = vec![("name", self.name.as_str())];
        labels.extend(self.namespace.as_deref().map(|namespace| ("namespace", namespace)));
        labels
    }

    /// The mean over the endpoints whose engine reports a fresh value.
    fn mean(&self, value: impl Fn(&EndpointView) -> Option<f64>) -> Option<f64> {
        let fresh = self.endpoints.iter().filter(|view| view.engine_is_fresh);
        let values: Vec<f64> = fresh.filter_map(value).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}

impl Collector for Ecosystem {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let pools: Vec<Known> = self.0.pools().into_iter().filter_map(Known::new).collect();
        if pools.is_empty() {
            return Ok(());
        }
        encode_means(&mut encoder, &pools)?;
        encode_endpoints(&mut encoder, &pools)?;
        encode_picks(&mut encoder, &pools)
    }
}

fn encode_means(encoder: &mut DescriptorEncoder<'_>, pools: &[Known]) -> fmt::Result {
    type Read = fn(&EndpointView) -> Option<f64>;
    let means: [(&str, &str, Read); 3] = [
        ("average_kv_cache_utilization", "Mean KV cache usage of the pool's engines, 0 to 1", |view| {
            view.engine_kv_usage
        }),
        ("average_queue_size", "Mean number of requests in the queues of the pool's engines", |view| {
            view.engine_waiting.map(f64::from)
        }),
        ("average_running_requests", "Mean number of requests that the pool's engines run", |view| {
            view.engine_running.map(f64::from)
        }),
    ];
    for (name, help, read) in means {
        for prefix in ["llm_d_epp", "inference_pool"] {
            let name = format!("{prefix}_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for pool in pools {
                let Some(mean) = pool.mean(read) else { continue };
                family.encode_family(&pool.labels())?.encode_gauge(&mean)?;
            }
        }
    }
    Ok(())
}

fn encode_endpoints(encoder: &mut DescriptorEncoder<'_>, pools: &[Known]) -> fmt::Result {
    for name in ["llm_d_epp_ready_endpoints", "inference_pool_ready_pods"] {
        let help = "Ready endpoints of the pool";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for pool in pools {
            family.encode_family(&pool.labels())?.encode_gauge(&(pool.endpoints.len() as i64))?;
        }
    }
    for (name, label) in [
        ("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint"),
        ("inference_pool_per_pod_queue_size", "model_server_pod"),
    ] {
        let help =
            "Requests in the queue of an engine. The endpoint is `POD-rank-N`: the port N of the pod, from 0";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for pool in pools {
            encode_queues(&mut family, pool, label)?;
        }
    }
    Ok(())
}

fn encode_queues(family: &mut MetricEncoder<'_>, pool: &Known, label: &'static str) -> fmt::Result {
    let mut views: Vec<&EndpointView> = pool.endpoints.iter().collect();
    views.sort_by_key(|view| (&view.endpoint.pod, view.endpoint.address.port()));
    for views in views.chunk_by(|a, b| a.endpoint.pod == b.endpoint.pod) {
        for (rank, view) in views.iter().enumerate().filter(|(_, view)| view.engine_is_fresh) {
            let Some(waiting) = view.engine_waiting else { continue };
            let name = format!("{}-rank-{rank}", view.endpoint.pod.name);
            let labels = [pool.labels(), vec![(label, name.as_str())]].concat();
            family.encode_family(&labels)?.encode_gauge(&i64::from(waiting))?;
        }
    }
    Ok(())
}

fn encode_picks(encoder: &mut DescriptorEncoder<'_>, pools: &[Known]) -> fmt::Result {
    for prefix in ["llm_d_epp", "inference_extension"] {
        let name = format!("{prefix}_scheduler_e2e_duration_seconds");
        let mut family = encoder.encode_descriptor(&name, "Duration of a pick", None, Histogram::TYPE)?;
        for pool in pools {
            pool.pool.metrics.pick_duration.encode(family.encode_family(&pool.labels())?)?;
        }
    }
    for prefix in ["llm_d_epp", "inference_extension"] {
        let name = format!("{prefix}_scheduler_attempts");
        let help = "Picks in which endpoints were compared, by status: success or failure";
        let mut family = encoder.encode_descriptor(&name, help, None, Counter::<u64>::TYPE)?;
        for pool in pools {
            let metrics = &pool.pool.metrics;
            for (status, counter) in
                [("success", &metrics.successful_picks), ("failure", &metrics.failed_attempts)]
            {
                let labels = [pool.labels(), vec![("status", status)]].concat();
                counter.encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let help = "Open ext_proc streams";
    let mut family =
        encoder.encode_descriptor("llm_d_epp_extproc_streams_inflight", help, None, MetricType::Gauge)?;
    for pool in pools {
        pool.pool.metrics.open_streams.encode(family.encode_family(&pool.labels())?)?;
    }
    Ok(())
}
