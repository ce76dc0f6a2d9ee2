/// Parameters of an engine.
///
/// Duration of a step: `fixed + prefill tokens ÷ prefill speed + decoding sequences × per sequence + KV tokens of the
/// decoding sequences × per KV token`.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSpec {
    /// Tokens of a step (`--max-num-batched-tokens`). Longer prompts are computed in chunks.
    pub max_num_batched_tokens: u32,
    /// Sequences in the batch (`--max-num-seqs`).
    pub max_num_seqs: u32,
    /// Tokens of a KV block. Divides [`crate::UNIT_TOKENS`].
    pub block_size: u32,
    pub num_blocks: u32,
    pub step_fixed_ns: f64,
    pub prefill_tokens_per_s: f64,
    pub per_sequence_ns: f64,
    pub per_kv_token_ns: f64,
}

/// Qwen3-32B: 64 layers, 8 KV heads of 128, bfloat16 (the model's `config.json`).
const QWEN3_32B_KV_BYTES_PER_TOKEN: f64 = 2.0 * 64.0 * 8.0 * 128.0 * 2.0;
/// 32.8 billion parameters (model card) of 2 bytes.
const QWEN3_32B_WEIGHT_BYTES: f64 = 32.8e9 * 2.0;
/// H100 SXM data sheet: 80 GB at 3.35 TB/s.
const H100_MEMORY_BYTES: f64 = 80e9;
const H100_BYTES_PER_S: f64 = 3.35e12;
/// Share of the memory bandwidth that vLLM's kernels reach. An assumption; 0.7–0.85 is usual for decoding.
const BANDWIDTH_SHARE: f64 = 0.8;
/// vLLM's `--gpu-memory-utilization` default.
const MEMORY_UTILIZATION: f64 = 0.9;
/// Activations and CUDA graphs of one GPU. An assumption.
const ACTIVATION_BYTES: f64 = 4e9;
/// Measured for Qwen3-32B on two H100 by llm-d's calibration recipe: one chunk of 8,192 tokens on an idle pod.
const CALIBRATED_TOKENS_PER_S: f64 = 15_928.0;
const CALIBRATED_CHUNK: u32 = 8_192;

impl EngineSpec {
    /// Qwen3-32B on two H100 (tensor parallel 2), the engine of llm-d's published benchmarks.
    ///
    /// - Batch limits and block size: vLLM V1 defaults on H100.
    /// - Fixed time: reading the weights once per step at the reached bandwidth.
    /// - Prefill speed: the calibrated chunk less the fixed time.
    /// - Per sequence: one token at the prefill speed.
    /// - Per KV token: reading its keys and values.
    /// - Blocks: memory that weights and activations leave.
    pub fn qwen3_32b_2xh100() -> Self {
        let bytes_per_s = 2.0 * H100_BYTES_PER_S * BANDWIDTH_SHARE;
        let fixed_s = QWEN3_32B_WEIGHT_BYTES / bytes_per_s;
        let chunk = f64::from(CALIBRATED_CHUNK);
        let prefill_tokens_per_s = chunk / (chunk / CALIBRATED_TOKENS_PER_S - fixed_s);
        let kv_bytes =
            2.0 * (H100_MEMORY_BYTES * MEMORY_UTILIZATION - ACTIVATION_BYTES) - QWEN3_32B_WEIGHT_BYTES;
        let block_size = 16;
        Self {
            max_num_batched_tokens: CALIBRATED_CHUNK,
            max_num_seqs: 256,
            block_size,
            num_blocks: (kv_bytes / QWEN3_32B_KV_BYTES_PER_TOKEN) as u32 / block_size,
            step_fixed_ns: fixed_s * 1e9,
            prefill_tokens_per_s,
            per_sequence_ns: 1e9 / prefill_tokens_per_s,
            per_kv_token_ns: QWEN3_32B_KV_BYTES_PER_TOKEN / bytes_per_s * 1e9,
        }
    }

    /// The same model on a GPU with `speed` times the speed and `memory` times the KV cache.
    #[must_use]
    pub fn scaled(&self, speed: f64, memory: f64) -> Self {
        Self {
            num_blocks: (f64::from(self.num_blocks) * memory) as u32,
            step_fixed_ns: self.step_fixed_ns / speed,
            prefill_tokens_per_s: self.prefill_tokens_per_s * speed,
            per_sequence_ns: self.per_sequence_ns / speed,
            per_kv_token_ns: self.per_kv_token_ns / speed,
            ..self.clone()
        }
    }

    /// Duration of a step at full speed.
    pub fn step_ns(&self, prefill_tokens: u32, decoding: u32, kv_tokens: u64) -> f64 {
        self.step_fixed_ns
            + f64::from(prefill_tokens) * 1e9 / self.prefill_tokens_per_s
            + f64::from(decoding) * self.per_sequence_ns
            + kv_tokens as f64 * self.per_kv_token_ns
    }
}
