#!/usr/bin/env python3
"""Judges Trestle's DC-AE by diffusers' AutoencoderDC: the same weights, inputs and gradients.

Encode and decode, whole and in tiles, of small random configurations: fp32 and fp64 forward and
gradients, bf16 forward. Then configurations that Trestle does not support, each refused by name.

    python tests/oracle/dc_ae_oracle.py --replay build/release/tests/oracle_replay
    python tests/oracle/dc_ae_oracle.py --replay ... --seed 7 --case 3 --keep /tmp/case
"""

from __future__ import annotations

import sys

from dc_ae_cases import digest, draw_case, turns_taken
from family_oracle import Oracle, main

USAGE, DATA = 2, 3

ORACLE = Oracle(
    family="dc_ae",
    draw=draw_case,
    digest=digest,
    turns=turns_taken,
    has_fused_path=True,
    accepted=[
        ({"from_a_later_release": 3}, "from_a_later_release has no effect"),
        ({"latent_chanels": 3}, "did you mean latent_channels?"),
    ],
    refused=[
        ({"encoder_block_types": "LiteMLA"}, "encoder_block_types", USAGE),
        ({"decoder_norm_types": "batch_norm"}, "decoder_norm_types", USAGE),
        ({"decoder_norm_types": "layer_norm"}, "decoder_norm_types", USAGE),
        ({"decoder_act_fns": "relu6"}, "decoder_act_fns", USAGE),
        ({"decoder_conv_act_fn": "tanh"}, "decoder_conv_act_fn", USAGE),
        ({"downsample_block_type": "pool"}, "downsample_block_type", USAGE),
        ({"upsample_block_type": "bilinear"}, "upsample_block_type", USAGE),
        ({"encoder_layers_per_block": [1, 1, 1, 1, 1]}, "encoder_layers_per_block", USAGE),
        ({"latent_channels": 1000}, "latent_channels = 1000", USAGE),
        ({"encoder_qkv_multiscales": [[4], 5]}, "encoder_qkv_multiscales", DATA),
    ],
)

if __name__ == "__main__":
    sys.exit(main(ORACLE, __doc__, cases=40))
