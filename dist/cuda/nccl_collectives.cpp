#include "dist/nccl_collectives.h"

#include "dist/binding.h"
#include "dist/cuda/nccl_backend.h"
#include "dist/cuda/nccl_steps.h"
#include "dist/tensor_checks.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <utility>
#include <vector>

namespace trestle::dist {
namespace {

at::Device cuda(int index) { return {at::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

struct NcclState : Work::State {
  NcclState(std::shared_ptr<NcclOperation> started, at::Device of)
      : operation(std::move(started)), device(of) {}
  void wait() override {
    const c10::cuda::CUDAGuard guard(device);
    operation->block(c10::cuda::getCurrentCUDAStream().stream());
  }
  void wait_on_host() override { operation->wait_on_host(); }
  bool test() override { return operation->is_complete(); }

  std::shared_ptr<NcclOperation> operation;
  at::Device device;
};

Call call(std::string_view kind, std::string_view name, std::vector<at::Tensor> tensors) {
  return {.kind = kind,
          .name = name,
          .keep = std::make_shared<const std::vector<at::Tensor>>(std::move(tensors))};
}

class NcclCollectives : public Collectives {
 public:
  NcclCollectives(Communicator own, int device, const NcclOptions& options, std::string_view name)
      : Collectives(std::move(own)),
        device_(cuda(device)),
        backend_(communicator(), device, options, name) {}

  bool sums_in_rank_order() const override { return false; }

  Work all_reduce(at::Tensor& flat, ReduceOp op, std::string_view name) override {
    require_on(device_, "all_reduce", flat);
    const Arithmetic arithmetic =
        arithmetic_of("all_reduce", flat.scalar_type(), flat.scalar_type());
    const at::Tensor staging = staging_for(flat.numel(), arithmetic, op);
    return collective(call("all_reduce", name, {flat, staging}), flat.nbytes(),
                      all_reduce_steps(ranks(), flat.data_ptr(), flat.numel(), arithmetic, op,
                                       bytes_of(staging)));
  }

  Work reduce_scatter(const at::Tensor& in, at::Tensor& out, ReduceOp op,
                      std::string_view name) override {
    require_on(device_, "reduce_scatter", in);
    require_on(device_, "reduce_scatter", out);
    const bool widens = in.scalar_type() == at::kBFloat16 && out.scalar_type() == at::kFloat;
    require_ratio("reduce_scatter", ranks().size, in, out, widens);
    require_own_or_apart("reduce_scatter", communicator(), out, in);
    const Arithmetic arithmetic =
        arithmetic_of("reduce_scatter", in.scalar_type(), out.scalar_type());
    const at::Tensor staging = staging_for(out.numel(), arithmetic, op);
    return collective(call("reduce_scatter", name, {in, out, staging}), in.nbytes(),
                      reduce_scatter_steps(ranks(), in.data_ptr(), out.data_ptr(), out.numel(),
                                           arithmetic, op, bytes_of(staging)));
  }

  Work all_gather(const at::Tensor& in, at::Tensor& out, std::string_view name) override {
    require_on(device_, "all_gather", in);
    require_on(device_, "all_gather", out);
    require_ratio("all_gather", ranks().size, out, in, false);
    require_own_or_apart("all_gather", communicator(), in, out);
    return collective(call("all_gather", name, {in, out}), out.nbytes(),
                      all_gather_steps(bytes_of(in), bytes_of(out).data()));
  }

  Work broadcast(at::Tensor& tensor, int root, std::string_view name) override {
    require_on(device_, "broadcast", tensor);
    TRESTLE_ASSERT(root >= 0 && root < ranks().size, "root {} of {} ranks", root, ranks().size);
    return collective(call("broadcast", name, {tensor}), tensor.nbytes(),
                      broadcast_steps(bytes_of(tensor), root));
  }

  Work send(const at::Tensor& tensor, int to, std::string_view name) override {
    require_on(device_, "send", tensor);
    require_other("send", communicator(), to);
    if (tensor.nbytes() == 0) return {};
    const c10::cuda::CUDAGuard guard(device_);
    return work(
        backend_.send(call("send", name, {tensor}), bytes_of(tensor), to, current_stream()));
  }

  Work recv(at::Tensor& tensor, int from, std::string_view name) override {
    require_on(device_, "recv", tensor);
    require_other("recv", communicator(), from);
    if (tensor.nbytes() == 0) return {};
    const c10::cuda::CUDAGuard guard(device_);
    return work(
        backend_.receive(call("recv", name, {tensor}), bytes_of(tensor), from, current_stream()));
  }

 private:
  NcclRanks ranks() const { return {communicator().rank(), communicator().size()}; }

  cudaStream_t current_stream() const {
    return c10::cuda::getCurrentCUDAStream(device_.index()).stream();
  }

  Work work(std::shared_ptr<NcclOperation> operation) const {
    return Work(std::make_unique<NcclState>(std::move(operation), device_));
  }

  Work collective(const Call& call, size_t bytes, std::vector<NcclStep> steps) {
    const c10::cuda::CUDAGuard guard(device_);
    return work(backend_.collective(call, bytes, std::move(steps), current_stream()));
  }

  /// Bytes for the pieces of a reduction. They belong to the backend's stream: the caching
  /// allocator hands them to no other, and the operations of a stream take turns.
  at::Tensor staging_for(std::int64_t count, Arithmetic arithmetic, ReduceOp op) {
    const auto bytes = static_cast<std::int64_t>(staging_bytes(ranks(), count, arithmetic, op));
    if (!staging_.defined() || staging_.numel() < bytes) {
      const c10::cuda::CUDAStreamGuard guard(
          c10::cuda::getStreamFromExternal(backend_.stream(), device_.index()));
      staging_ = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device_));
    }
    return staging_;
  }

  const at::Device device_;
  at::Tensor staging_;
  NcclBackend backend_;
};

}  // namespace

std::unique_ptr<Collectives> make_nccl_collectives(const Communicator& communicator, int device,
                                                   const NcclOptions& options,
                                                   std::string_view name) {
  communicator.agreed([&] {
    const auto count = static_cast<int>(visible_gpus().uuids.size());
    TRESTLE_REQUIRE_AS(
        environment, device >= 0 && device < count,
        "this process on {} cannot use GPU {} (it sees {}). Ask for GPUs on every host (Slurm: "
        "--gpus-per-task=1), and try nvidia-smi there.",
        host_name(), device, count);
  });
  const c10::cuda::CUDAGuard guard(cuda(device));
  return std::make_unique<NcclCollectives>(communicator.duplicate(name), device, options, name);
}

}  // namespace trestle::dist
