#include "dist/collectives.h"

#include "base/log.h"
#include "dist/operations.h"
#include "dist/tensor_checks.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

namespace trestle::dist {

Work::Work() = default;
Work::Work(std::unique_ptr<State> state) : state_(std::move(state)) {}
Work::Work(Work&& other) noexcept = default;

Work& Work::operator=(Work&& other) noexcept {
  Work old(std::move(*this));  // ends like any other Work that is dropped
  state_ = std::move(other.state_);
  return *this;
}

Work::~Work() {
  if (!state_ || std::uncaught_exceptions() > 0) return;
  try {
    wait();
  } catch (const std::exception& error) {
    log_error("{}", error.what());
  }
}

void Work::wait() {
  if (const std::unique_ptr<State> state = std::move(state_)) state->wait();
}

void Work::wait_on_host() {
  if (const std::unique_ptr<State> state = std::move(state_)) state->wait_on_host();
}

bool Work::test() {
  std::unique_ptr<State> state = std::move(state_);  // gone if it throws
  if (state && !state->test()) state_ = std::move(state);
  return !state_;
}

namespace {

struct PendingState : Work::State {
  explicit PendingState(Pending started) : pending(std::move(started)) {}
  void wait() override { pending->wait(); }
  bool test() override { return pending->test(); }

  Pending pending;
};

Work work(Pending pending) { return Work(std::make_unique<PendingState>(std::move(pending))); }

/// A call that keeps its tensors until it has ended.
Call keeping(std::string_view kind, std::string_view name, std::vector<at::Tensor> tensors) {
  return {.kind = kind,
          .name = name,
          .keep = std::make_shared<const std::vector<at::Tensor>>(std::move(tensors))};
}

class HostCollectives : public Collectives {
 public:
  HostCollectives(Communicator own, const CollectivesOptions& options)
      : Collectives(std::move(own)) {
    if (options.two_level) levels_ = std::make_shared<const Topology>(*options.two_level);
  }

  bool sums_in_rank_order() const override { return !levels_; }

  Work all_reduce(at::Tensor& flat, ReduceOp op, std::string_view name) override {
    require_on(at::kCPU, "all_reduce", flat);
    const at::ScalarType dtype = flat.scalar_type();
    return work(dist::all_reduce(channel(), call("all_reduce", name, {flat}),
                                 arithmetic_of("all_reduce", dtype, dtype), bytes_of(flat), op));
  }

  Work reduce_scatter(const at::Tensor& in, at::Tensor& out, ReduceOp op,
                      std::string_view name) override {
    require_on(at::kCPU, "reduce_scatter", in);
    require_on(at::kCPU, "reduce_scatter", out);
    const bool widens = in.scalar_type() == at::kBFloat16 && out.scalar_type() == at::kFloat;
    require_ratio("reduce_scatter", size(), in, out, widens);
    require_own_or_apart("reduce_scatter", communicator(), out, in);
    return work(
        dist::reduce_scatter(channel(), call("reduce_scatter", name, {in, out}),
                             arithmetic_of("reduce_scatter", in.scalar_type(), out.scalar_type()),
                             bytes_of(in), bytes_of(out), op));
  }

  Work all_gather(const at::Tensor& in, at::Tensor& out, std::string_view name) override {
    require_on(at::kCPU, "all_gather", in);
    require_on(at::kCPU, "all_gather", out);
    require_ratio("all_gather", size(), out, in, false);
    require_own_or_apart("all_gather", communicator(), in, out);
    return work(dist::all_gather(channel(), call("all_gather", name, {in, out}), bytes_of(in),
                                 bytes_of(out)));
  }

  Work broadcast(at::Tensor& tensor, int root, std::string_view name) override {
    require_on(at::kCPU, "broadcast", tensor);
    return work(
        dist::broadcast(channel(), call("broadcast", name, {tensor}), bytes_of(tensor), root));
  }

  Work send(const at::Tensor& tensor, int to, std::string_view name) override {
    require_on(at::kCPU, "send", tensor);
    require_other("send", communicator(), to);
    return work(dist::send(channel(), call("send", name, {tensor}), bytes_of(tensor), to));
  }

  Work recv(at::Tensor& tensor, int from, std::string_view name) override {
    require_on(at::kCPU, "recv", tensor);
    require_other("recv", communicator(), from);
    return work(dist::receive(channel(), call("recv", name, {tensor}), bytes_of(tensor), from));
  }

 private:
  Call call(std::string_view kind, std::string_view name, std::vector<at::Tensor> tensors) const {
    Call made = keeping(kind, name, std::move(tensors));
    made.two_level = levels_;
    return made;
  }

  int size() const { return communicator().size(); }
  Channel& channel() const { return communicator().channel(); }

  std::shared_ptr<const Topology> levels_;  // null: one level
};

}  // namespace

std::unique_ptr<Collectives> make_collectives(const Communicator& communicator,
                                              std::string_view name,
                                              const CollectivesOptions& options) {
  return std::make_unique<HostCollectives>(communicator.duplicate(name), options);
}

}  // namespace trestle::dist
