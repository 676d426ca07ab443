#include "dist/collectives.h"

#include "base/log.h"
#include "dist/reduce.h"
#include "dist/transport.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

namespace trestle::dist {
namespace {

/// Keeps an operation and its buffers until the process ends: a peer may still write to them.
void abandon(std::unique_ptr<Work::State> state) {
  static std::mutex mutex;
  static auto* const abandoned = new std::vector<std::unique_ptr<Work::State>>;
  const std::lock_guard lock(mutex);
  abandoned->push_back(std::move(state));
}

}  // namespace

Work::Work() = default;
Work::Work(std::unique_ptr<State> state) : state_(std::move(state)) {}
Work::Work(Work&& other) noexcept = default;

Work& Work::operator=(Work&& other) noexcept {
  Work old(std::move(*this));  // ends like any other Work that is dropped
  state_ = std::move(other.state_);
  return *this;
}

Work::~Work() {
  if (!state_) return;
  if (std::uncaught_exceptions() > 0) {
    abandon(std::move(state_));
    return;
  }
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
  if (state_ && state_->test()) state_.reset();
  return !state_;
}

namespace {

// What a reduction receives from all ranks together before it adds: small enough to add from cache,
// large enough for full bandwidth. The result does not depend on it.
constexpr int64_t kStagingBytes = int64_t{8} << 20;

/// A message whose tensor stays alive until it is done.
struct MessageState : Work::State {
  MessageState(at::Tensor kept, std::unique_ptr<Operation> started)
      : tensor(std::move(kept)), operation(std::move(started)) {}
  void wait() override { operation->wait(); }
  bool test() override { return operation->test(); }

  at::Tensor tensor;
  std::unique_ptr<Operation> operation;  // declared after the tensor: destroyed before it
};

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
  if (part.empty() || part.data() == own.data()) return;
  TRESTLE_ASSERT(
      part.data() + part.size() <= whole.data() || whole.data() + whole.size() <= part.data(),
      "{} got tensors that overlap in memory and are not this rank's slice", operation);
}

/// Consecutive parts of an array, one a rank.
struct Slices {
  static Slices even(int64_t each, int ranks) {
    Slices slices;
    for (int rank = 0; rank <= ranks; ++rank) slices.begins.push_back(rank * each);
    return slices;
  }
  /// Lengths that differ by one at most.
  static Slices balanced(int64_t count, int ranks) {
    Slices slices;
    for (int64_t rank = 0; rank <= ranks; ++rank) {
      slices.begins.push_back(count / ranks * rank + std::min(rank, count % ranks));
    }
    return slices;
  }
  int64_t count(int rank) const { return begins[rank + 1] - begins[rank]; }

  std::vector<int64_t> begins;
};

class HostCollectives : public Collectives {
 public:
  explicit HostCollectives(Communicator own) : Collectives(std::move(own)) {}

  Work all_reduce(at::Tensor& flat, ReduceOp op, std::string_view) override {
    require_host("all_reduce", flat);
    const auto slices = Slices::balanced(flat.numel(), size());
    std::byte* data = bytes_of(flat).data();
    std::byte* own = data + slices.begins[rank()] * flat.element_size();
    reduce("all_reduce", flat.scalar_type(), data, slices, own, op);
    gather(own, slices, flat.element_size(), data);
    return {};
  }

  Work reduce_scatter(const at::Tensor& in, at::Tensor& out, ReduceOp op,
                      std::string_view) override {
    require_host("reduce_scatter", in);
    require_host("reduce_scatter", out);
    require_ratio("reduce_scatter", in, out);
    const auto whole = bytes_of(in), part = bytes_of(out);
    require_own_or_apart("reduce_scatter", part, whole,
                         whole.subspan(rank() * part.size(), part.size()));
    reduce("reduce_scatter", in.scalar_type(), whole.data(), Slices::even(out.numel(), size()),
           part.data(), op);
    return {};
  }

  Work all_gather(const at::Tensor& in, at::Tensor& out, std::string_view) override {
    require_host("all_gather", in);
    require_host("all_gather", out);
    require_ratio("all_gather", out, in);
    const auto whole = bytes_of(out), part = bytes_of(in);
    require_own_or_apart("all_gather", part, whole,
                         whole.subspan(rank() * part.size(), part.size()));
    gather(part.data(), Slices::even(in.numel(), size()), in.element_size(), whole.data());
    return {};
  }

  Work broadcast(at::Tensor& tensor, int root, std::string_view) override {
    require_host("broadcast", tensor);
    dist::broadcast(transport(), bytes_of(tensor), root);
    return {};
  }

  Work send(const at::Tensor& tensor, int to, std::string_view) override {
    require_host("send", tensor);
    require_other("send", to);
    const Outgoing message{to, bytes_of(tensor)};
    return started(tensor, transport().start({&message, 1}, {}));
  }

  Work recv(at::Tensor& tensor, int from, std::string_view) override {
    require_host("recv", tensor);
    require_other("recv", from);
    const Incoming message{from, bytes_of(tensor)};
    return started(tensor, transport().start({}, {&message, 1}));
  }

 private:
  int rank() const { return communicator().rank(); }
  int size() const { return communicator().size(); }
  Transport& transport() const { return communicator().transport(); }

  static Work started(const at::Tensor& tensor, std::unique_ptr<Operation> operation) {
    return Work(std::make_unique<MessageState>(tensor, std::move(operation)));
  }

  void require_ratio(const char* operation, const at::Tensor& whole, const at::Tensor& part) {
    TRESTLE_ASSERT(
        whole.scalar_type() == part.scalar_type() && whole.numel() == size() * part.numel(),
        "{} over {} ranks got {} x {} and {} x {}", operation, size(), whole.numel(),
        c10::toString(whole.scalar_type()), part.numel(), c10::toString(part.scalar_type()));
  }

  void require_other(const char* operation, int peer) {
    TRESTLE_ASSERT(peer >= 0 && peer < size() && peer != rank(), "rank {} of {}: {} with rank {}",
                   rank(), size(), operation, peer);
  }

  void reduce(const char* operation, at::ScalarType dtype, const std::byte* in,
              const Slices& slices, std::byte* out, ReduceOp op) {
    const auto as = [&]<class T>(T) {
      reduce_slices(reinterpret_cast<const T*>(in), slices, reinterpret_cast<T*>(out), op);
    };
    switch (dtype) {
      case at::kFloat:
        return as(float{});
      case at::kDouble:
        return as(double{});
      case at::kLong:
        return as(int64_t{});
      default:
        fail(
            ExitCode::environment,
            "{} got a tensor of dtype {} (this backend reduces Float, Double and Long). Convert it "
            "first.",
            operation, c10::toString(dtype));
    }
  }

  template <class T>
  T* staging_for(int64_t count) {
    const size_t bytes = count * sizeof(T);
    if (staging_bytes_ < bytes) {
      staging_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      staging_bytes_ = bytes;
    }
    return reinterpret_cast<T*>(staging_.get());
  }

  /// out = this rank's slice of in, reduced over ranks. Every rank sends each other rank that one's
  /// slice, and adds what it gets in rank order. out may be the own slice of in.
  template <class T>
  void reduce_slices(const T* in, const Slices& slices, T* out, ReduceOp op) {
    const int ranks = size(), me = rank();
    int64_t longest = 0;
    for (int r = 0; r < ranks; ++r) longest = std::max(longest, slices.count(r));
    const int64_t step =
        std::max<int64_t>(1, kStagingBytes / static_cast<int64_t>(sizeof(T)) / ranks);
    T* const staging = staging_for<T>(ranks > 1 ? ranks * std::min(step, slices.count(me)) : 0);

    for (int64_t begin = 0; begin < longest; begin += step) {
      const auto count = [&](int r) {
        return std::clamp<int64_t>(slices.count(r) - begin, 0, step);
      };
      const int64_t mine = count(me);
      const T* own = in + slices.begins[me] + begin;
      std::vector<Outgoing> outgoing;
      std::vector<Incoming> incoming;
      for (int k = 1; k < ranks; ++k) {
        const int to = (me + k) % ranks, from = (me + ranks - k) % ranks;
        outgoing.push_back(
            {to, std::as_bytes(std::span(in + slices.begins[to] + begin, count(to)))});
        incoming.push_back({from, std::as_writable_bytes(std::span(staging + from * mine, mine))});
      }
      transport().exchange(outgoing, incoming);
      if (mine == 0) continue;

      T* sum = out + begin;
      if (me != 0) {
        sum = staging;  // rank 0's part arrived here
      } else if (sum != own) {
        std::copy_n(own, mine, sum);
      }
      for (int r = 1; r < ranks; ++r) {
        combine(sum, r == me ? own : staging + r * mine, mine, op);
      }
      if (me != 0) std::copy_n(sum, mine, out + begin);
    }
  }

  /// Everyone's slice at its place in `all`. own may already stand there.
  void gather(const std::byte* own, const Slices& slices, int64_t element_bytes, std::byte* all) {
    const auto slice = [&](int r) {
      return std::span(all + slices.begins[r] * element_bytes,
                       static_cast<size_t>(slices.count(r) * element_bytes));
    };
    const int ranks = size(), me = rank();
    const std::span<std::byte> place = slice(me);
    if (!place.empty() && place.data() != own) std::memcpy(place.data(), own, place.size());
    std::vector<Outgoing> outgoing;
    std::vector<Incoming> incoming;
    for (int k = 1; k < ranks; ++k) {
      outgoing.push_back({(me + k) % ranks, place});
      const int from = (me + ranks - k) % ranks;
      incoming.push_back({from, slice(from)});
    }
    transport().exchange(outgoing, incoming);
  }

  std::unique_ptr<std::byte[]> staging_;  // kept between calls
  size_t staging_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Collectives> make_collectives(const Communicator& communicator,
                                              std::string_view name) {
  return std::make_unique<HostCollectives>(communicator.duplicate(name));
}

}  // namespace trestle::dist
