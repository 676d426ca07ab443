#include "dist/tensor_checks.h"

namespace trestle::dist {

void require_on(at::Device device, const char* operation, const at::Tensor& tensor) {
  const bool is_there =
      tensor.defined() && (device.is_cpu() ? tensor.is_cpu() : tensor.device() == device);
  TRESTLE_REQUIRE_AS(environment, is_there,
                     "{} got a tensor on {} (this backend moves {}). Copy it to {} first.",
                     operation, tensor.defined() ? tensor.device().str() : "no device",
                     device.is_cpu() ? "host memory" : "memory of " + device.str(),
                     device.is_cpu() ? "the CPU" : device.str());
  TRESTLE_ASSERT(tensor.layout() == at::kStrided && tensor.is_contiguous(),
                 "{} needs contiguous tensors", operation);
}

void require_ratio(const char* operation, int size, const at::Tensor& whole, const at::Tensor& part,
                   bool may_differ) {
  TRESTLE_ASSERT((may_differ || whole.scalar_type() == part.scalar_type()) &&
                     whole.numel() == size * part.numel(),
                 "{} over {} ranks got {} x {} and {} x {}", operation, size, whole.numel(),
                 c10::toString(whole.scalar_type()), part.numel(),
                 c10::toString(part.scalar_type()));
}

void require_own_or_apart(const char* operation, const Communicator& ranks, const at::Tensor& part,
                          const at::Tensor& whole) {
  const std::span<const std::byte> mine = bytes_of(part), all = bytes_of(whole);
  const size_t slice = all.size() / ranks.size();
  if (mine.empty() || (mine.data() == all.data() + slice * ranks.rank() && mine.size() == slice))
    return;
  TRESTLE_ASSERT(mine.data() + mine.size() <= all.data() || all.data() + all.size() <= mine.data(),
                 "{} got tensors that overlap in memory and are not this rank's slice", operation);
}

void require_other(const char* operation, const Communicator& ranks, int peer) {
  TRESTLE_ASSERT(peer >= 0 && peer < ranks.size() && peer != ranks.rank(),
                 "rank {} of {}: {} with rank {}", ranks.rank(), ranks.size(), operation, peer);
}

Arithmetic arithmetic_of(const char* operation, at::ScalarType in, at::ScalarType out) {
  if (in == at::kBFloat16 && out == at::kFloat) return Arithmetic::bfloat16_to_float32;
  switch (in) {
    case at::kFloat:
      return Arithmetic::float32;
    case at::kDouble:
      return Arithmetic::float64;
    case at::kLong:
      return Arithmetic::int64;
    default:
      fail(ExitCode::environment,
           "{} got a tensor of dtype {} (this backend reduces Float, Double and Long). Convert it "
           "first.",
           operation, c10::toString(in));
  }
}

}  // namespace trestle::dist
