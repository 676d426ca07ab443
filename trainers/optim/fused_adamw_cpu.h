// The loops behind fused_adamw.h on a CPU: plain pointers, float or double.
//
// BITS: every operation is rounded by itself, as in AdamW, with one exception: an average is
// fma(weight, master - average, average), as ATen's lerp (behind Ema) is on every processor with
// FMA. So results depend neither on the instruction set, nor on the threads, nor on where a shard
// is cut.
// LOCAL. THREADS: one caller at a time; uses torch's threads.
#pragma once
#include <cstdint>
#include <vector>

namespace trestle::trainers {

template <class Scalar>
struct AdamWPlanes {
  struct Average {
    Scalar* values;
    Scalar weight;  ///< 1 - decay
  };
  Scalar *gradient, *master, *exp_avg, *exp_avg_sq;
  std::vector<Average> averages;
  bool zero_gradient = false;
  Scalar* parameter = nullptr;                  ///< written unless null
  std::uint16_t* bfloat16_parameter = nullptr;  ///< the same; float only
};

template <class Scalar>
struct AdamWFactors {
  Scalar gradient_scale;
  Scalar keep;  ///< 1 - learning rate · weight decay
  Scalar one_minus_beta1, beta2, one_minus_beta2;
  Scalar step_size;  ///< learning rate / bias correction of exp_avg
  Scalar root_bias_correction2, epsilon;
};

void adamw_pass_cpu(const AdamWPlanes<float>& planes, const AdamWFactors<float>& factors,
                    std::int64_t count);
void adamw_pass_cpu(const AdamWPlanes<double>& planes, const AdamWFactors<double>& factors,
                    std::int64_t count);

}  // namespace trestle::trainers
