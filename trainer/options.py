"""Every option of trl 1.16's ``GRPOConfig`` in exactly one of three tables.

HONOURED: belongs to the replaced method, and our code does it (SAMPLER: so far from TRL that it never sees them).
FORWARDED: handled by TRL, transformers or accelerate outside the replaced method. REFUSED: would be ignored, is
untested here, or is set by us; the text says why. LORA stands beside them: the options of trl's ``ModelConfig`` that
describe an adapter, honoured by us. A test compares the tables with the installed dataclasses, so that a new minor
version fails there first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from rollout.errors import ConfigError

_HONOURED = """
    num_generations generation_batch_size steps_per_generation num_iterations gradient_accumulation_steps
    per_device_train_batch_size max_steps save_steps save_strategy max_completion_length pad_to_multiple_of
    temperature loss_type scale_rewards mask_truncated_completions beta off_policy_mask_threshold entropy_coef
    use_adaptive_entropy log_completions seed report_to
"""

_SAMPLER = """
    use_vllm vllm_mode vllm_server_base_url vllm_server_timeout vllm_tensor_parallel_size vllm_gpu_memory_utilization
    vllm_max_model_length
"""

_FORWARDED = """
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1
    adam_beta2 adam_epsilon optim_target_modules max_grad_norm bf16 fp16 tf32 activation_checkpointing
    activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_compile
    torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha
    torch_empty_cache_steps logging_strategy logging_steps logging_first_step log_on_each_node
    logging_nan_inf_filter log_level log_level_replica disable_tqdm run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id save_on_each_node full_determinism data_seed use_cpu
    accelerator_config dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout deepspeed debug
    skip_memory_metrics restore_callback_states_from_checkpoint model_init_kwargs trust_remote_code
    router_aux_loss_coef disable_dropout cast_lm_head_to_fp32 epsilon delta epsilon_high sapo_temperature_neg
    sapo_temperature_pos vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg importance_sampling_level
    sync_ref_model ref_model_mixup_alpha ref_model_sync_steps top_entropy_quantile entropy_coef_min entropy_coef_max
    entropy_coef_delta entropy_target use_bias_correction_kl num_completions_to_print log_unique_prompts
    local_rank parallelism_config
"""

LORA = frozenset("use_peft lora_r lora_alpha lora_dropout lora_target_modules use_rslora".split())
SAMPLER = frozenset(_SAMPLER.split())  # read by launch.served: TRL must not start or call a vLLM of its own
HONOURED = frozenset(_HONOURED.split()) | SAMPLER
FORWARDED = frozenset(_FORWARDED.split())

_SAMPLING = "rollouts are sampled elsewhere and with temperature only; set trl.temperature and rollout's limits"
_VLLM = "rollout samplers own the engine; docs/samplers.md names the vllm options that are honoured"
_EVAL = "evaluation runs on the rollout pool, not in the trainer"
_OURS = "set by the trainer itself"
_HUB = "nothing is pushed from a training run; upload a finished checkpoint"
_DATA = "batches come whole from rollouts; order and curriculum belong to the scheduler"
_REWARD = "rewards are composed where trajectories are scored"
_PROMPT = "chat templates and tools belong to the rollout side"
_ADAPTER = "published weights are merged from plain LoRA layers; choose layers with lora_target_modules"
_FSDP = "publishing weights under FSDP is not supported; use deepspeed"


def _each(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


REFUSED: dict[str, str] = {
    **_each("top_p top_k min_p repetition_penalty generation_kwargs cache_implementation", _SAMPLING),
    **_each("use_transformers_continuous_batching transformers_continuous_batching_config", _SAMPLING),
    **_each("use_transformers_paged ds3_gather_for_generation", _SAMPLING),
    **_each("vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex", _VLLM),
    **_each("vllm_server_host vllm_server_port vllm_group_port", _VLLM),
    **_each(
        "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_cap"
        " vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min",
        "use trainer.correction, which has the same four modes, correct_when and weight_cap",
    ),
    **_each("eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start", _EVAL),
    **_each("eval_do_concat_batches eval_accumulation_steps eval_use_gather_object batch_eval_metrics", _EVAL),
    **_each("include_for_metrics bf16_full_eval fp16_full_eval num_generations_eval load_best_model_at_end", _EVAL),
    **_each("metric_for_best_model greater_is_better do_eval do_predict", _EVAL),
    **_each("output_dir save_total_limit ignore_data_skip remove_unused_columns do_train", _OURS),
    **_each("resume_from_checkpoint save_only_model enable_jit_checkpoint average_tokens_across_devices", _OURS),
    **_each("push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision", _HUB),
    **_each("log_completions_hub_repo", _HUB),
    **_each("shuffle_dataset num_train_epochs dataloader_drop_last train_sampling_strategy length_column_name", _DATA),
    **_each("auto_find_batch_size label_names label_smoothing_factor include_num_input_tokens_seen", _DATA),
    **_each("reward_weights multi_objective_aggregation", _REWARD),
    **_each("chat_template_kwargs max_tool_calling_iterations log_multimodal", _PROMPT),
    **_each("fsdp fsdp_config", _FSDP),
}

# What we set: tickets in order, no skipping on resume (the scheduler knows), every checkpoint kept until our own
# rotation has a valid manifest (decision 19).
OWNED: dict[str, Any] = {
    "ignore_data_skip": True,
    "remove_unused_columns": False,
    "save_total_limit": None,
    "shuffle_dataset": False,
}

REFUSED_LORA = _each(
    "use_dora lora_target_parameters lora_modules_to_save lora_task_type load_in_8bit load_in_4bit", _ADAPTER
)


def check_trl_options(names: Iterable[str]) -> None:
    """Raise ``ConfigError`` naming the first option that is refused (and why) or unknown (and the nearest name)."""
    refused, taken = REFUSED | REFUSED_LORA, HONOURED | FORWARDED | LORA
    for name in names:
        if name in refused:
            raise ConfigError(f"trainer.trl.{name} is refused: {refused[name]}")
        if name not in taken:
            near = difflib.get_close_matches(name, sorted(taken), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"trainer.trl.{name} is not an option of GRPOConfig{hint}")
