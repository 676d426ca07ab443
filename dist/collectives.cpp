#include "dist/collectives.h"

#include "base/log.h"
#include "dist/operations.h"

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

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

void require_host(const char* operation, const at::Tensor& tensor) {
  TRESTLE_REQUIRE_AS(environment, tensor.defined() && tensor.device().is_cpu(),
                     "{} got a tensor on {} (this backend moves host memory). Copy it to the CPU "
                     "first.",
                     operation, tensor.defined() ? tensor.device().str() : "no device");
  TRESTLE_ASSERT(tensor.layout() == at::kStrided && tensor.is_contiguous(),
                 "{} needs contiguous tensors", operation);
}

/// The two share no byte, or `part` is exactly `own`.
void require_own_or_apart(const char* operation, std::span<const std::byte> part,
                          std::span<const std::byte> whole, std::span<const std::byte> own) {
  if (part.empty() || (part.data() == own.data() && part.size() == own.size())) return;
  TRESTLE_ASSERT(
      part.data() + part.size() <= whole.data() || whole.data() + whole.size() <= part.data(),
      "{} got tensors that overlap in memory and are not this rank's slice", operation);
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

class HostCollectives : public Collectives {
 public:
  HostCollectives(Communicator own, const CollectivesOptions& options)
      : Collectives(std::move(own)) {
    if (options.two_level) levels_ = std::make_shared<const Topology>(*options.two_level);
  }

  bool sums_in_rank_order() const override { return !levels_; }

  Work all_reduce(at::Tensor& flat, ReduceOp op, std::string_view name) override {
    require_host("all_reduce", flat);
    const at::ScalarType dtype = flat.scalar_type();
    return work(dist::all_reduce(channel(), call("all_reduce", name, {flat}),
                                 arithmetic_of("all_reduce", dtype, dtype), bytes_of(flat), op));
  }

  Work reduce_scatter(const at::Tensor& in, at::Tensor& out, ReduceOp op,
                      std::string_view name) override {
    require_host("reduce_scatter", in);
    require_host("reduce_scatter", out);
    const bool widens = in.scalar_type() == at::kBFloat16 && out.scalar_type() == at::kFloat;
    require_ratio("reduce_scatter", in, out, widens);
    const auto whole = bytes_of(in), part = bytes_of(out);
    require_own_or_apart("reduce_scatter", part, whole, own_slice(whole));
    return work(dist::reduce_scatter(
        channel(), call("reduce_scatter", name, {in, out}),
        arithmetic_of("reduce_scatter", in.scalar_type(), out.scalar_type()), whole, part, op));
  }

  Work all_gather(const at::Tensor& in, at::Tensor& out, std::string_view name) override {
    require_host("all_gather", in);
    require_host("all_gather", out);
    require_ratio("all_gather", out, in, false);
    const auto whole = bytes_of(out), part = bytes_of(in);
    require_own_or_apart("all_gather", part, whole, own_slice(whole));
    return work(dist::all_gather(channel(), call("all_gather", name, {in, out}), part, whole));
  }

  Work broadcast(at::Tensor& tensor, int root, std::string_view name) override {
    require_host("broadcast", tensor);
    return work(
        dist::broadcast(channel(), call("broadcast", name, {tensor}), bytes_of(tensor), root));
  }

  Work send(const at::Tensor& tensor, int to, std::string_view name) override {
    require_host("send", tensor);
    require_other("send", to);
    return work(dist::send(channel(), call("send", name, {tensor}), bytes_of(tensor), to));
  }

  Work recv(at::Tensor& tensor, int from, std::string_view name) override {
    require_host("recv", tensor);
    require_other("recv", from);
    return work(dist::receive(channel(), call("recv", name, {tensor}), bytes_of(tensor), from));
  }

 private:
  Call call(std::string_view kind, std::string_view name, std::vector<at::Tensor> tensors) const {
    Call made = keeping(kind, name, std::move(tensors));
    made.two_level = levels_;
    return made;
  }

  std::shared_ptr<const Topology> levels_;  // null: one level

  int rank() const { return communicator().rank(); }
  int size() const { return communicator().size(); }
  Channel& channel() const { return communicator().channel(); }

  std::span<const std::byte> own_slice(std::span<const std::byte> whole) const {
    return whole.subspan(whole.size() / size() * rank(), whole.size() / size());
  }

  void require_ratio(const char* operation, const at::Tensor& whole, const at::Tensor& part,
                     bool may_differ) {
    TRESTLE_ASSERT((may_differ || whole.scalar_type() == part.scalar_type()) &&
                       whole.numel() == size() * part.numel(),
                   "{} over {} ranks got {} x {} and {} x {}", operation, size(), whole.numel(),
                   c10::toString(whole.scalar_type()), part.numel(),
                   c10::toString(part.scalar_type()));
  }

  void require_other(const char* operation, int peer) {
    TRESTLE_ASSERT(peer >= 0 && peer < size() && peer != rank(), "rank {} of {}: {} with rank {}",
                   rank(), size(), operation, peer);
  }
};

}  // namespace

std::unique_ptr<Collectives> make_collectives(const Communicator& communicator,
                                              std::string_view name,
                                              const CollectivesOptions& options) {
  return std::make_unique<HostCollectives>(communicator.duplicate(name), options);
}

}  // namespace trestle::dist
