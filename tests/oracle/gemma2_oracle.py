#!/usr/bin/env python3
"""Judges Trestle's Gemma 2 encoder by transformers' Gemma2Model: the same weights, ids and masks.

Small random configurations with every kind of mask: fp32 and fp64 forward and gradients, bf16
forward. The library's operations are copied one by one, so the bounds are far below the usual ones.
Then configurations that are not supported, each refused by name, and those that are only warned of.

    python tests/oracle/gemma2_oracle.py --replay build/release/tests/oracle_replay
    python tests/oracle/gemma2_oracle.py --replay ... --seed 7 --case 3 --keep /tmp/case
"""

from __future__ import annotations

import sys

from family_oracle import Oracle, main
from gemma2_cases import digest, draw_case, turns_taken
from replay import Bounds

USAGE, DATA = 2, 3

ORACLE = Oracle(
    family="gemma2",
    draw=draw_case,
    digest=digest,
    turns=turns_taken,
    has_fused_path=False,
    bounds={
        "float32": Bounds(1e-7, 1e-7),
        "float64": Bounds(1e-15, 1e-14),
        "bfloat16": Bounds(1e-3, 1e-3),
    },
    refused=[
        ({"hidden_activation": "gelu_new"}, "hidden_activation", USAGE),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling", USAGE),
        (
            {"rope_scaling": None, "rope_parameters": {"full_attention": {"rope_theta": 9.0}}},
            "rope_parameters",
            USAGE,
        ),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention", USAGE),
        ({"is_causal": False}, "is_causal", USAGE),
        ({"quantization_config": {"bits": 4}}, "quantization_config", USAGE),
        ({"per_layer_config": {"0": {}}}, "per_layer_config", USAGE),
        ({"model_type": "gemma3"}, "model_type", USAGE),
        ({"num_attention_heads": 5, "hidden_size": 12}, "num_attention_heads", USAGE),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "num_key_value_heads", USAGE),
        ({"head_dim": 7}, "head_dim", USAGE),
        ({"pad_token_id": 1000}, "pad_token_id", USAGE),
        ({"layer_types": ["full_attention"] * 9}, "layer_types", USAGE),
        ({"layer_types": ["conv"]}, "layer_types", USAGE),
        ({"sliding_window": None}, "sliding_window", DATA),
        ({"rope_scaling": None, "rope_parameters": 3}, "rope_parameters", DATA),
    ],
    accepted=[
        ({"hidden_act": "relu"}, "hidden_act has no effect"),
        (
            {"rope_scaling": None, "rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor has no effect",
        ),
        ({"use_cache": False, "torch_dtype": "bfloat16", "eos_token_id": [1, 107]}, ""),
    ],
)

if __name__ == "__main__":
    sys.exit(main(ORACLE, __doc__, cases=40))
