// Tensors between ranks: reductions, gathers, broadcasts and point-to-point messages.
//
//   auto collectives = dist::make_collectives(world);       // host memory
//   collectives->all_reduce(flat_gradients, dist::ReduceOp::sum).wait();
//
// For GPU memory there is dist/nccl_collectives.h, whose header says what differs there.
//
// COLLECTIVE: all_reduce, reduce_scatter, all_gather, broadcast; every rank makes the same calls in
// the same order, with the same sizes and dtypes. send and recv are made by two ranks in pairs.
// THREADS: one Collectives is used by one thread at a time; two of them, each made by its own
// make_collectives, may be used by two threads at once.
// ASYNCHRONOUS: a call queues its work for the progress thread (dist/progress.h) and returns.
// Several may be under way; they go on side by side, whatever their callers do, and end in any
// order. Sums are taken by the progress thread too. BUFFERS belong to the caller: contiguous
// tensors, any size (0 and more than 2 GiB included). Until wait() returns, inputs are
// not written and outputs are not read. A Work holds a reference to its tensors. Values are written
// past autograd (no version counter moves). DTYPES: reductions take float32, float64 and int64, and
// reduce_scatter also bfloat16 into float32 (all_reduce of bfloat16 does not exist, since its
// result would be rounded: reduce-scatter into float32 and gather that); the other calls move any
// dtype. RESULTS: sums are taken in the dtype of the result, element by element in rank order
// (0 + 1 + 2 ...), so they have the same bits on every rank, in every run, on every backend of host
// memory, and whatever else is under way.
// In two levels the order is that of dist/two_level.h instead: the same bits in every run of the
// same topology.
#pragma once
#include "dist/communicator.h"
#include "dist/topology.h"

#include <memory>
#include <optional>

namespace at {
class Tensor;
}

namespace trestle::dist {

/// A started operation. Movable. Wait for it: the destructor does so otherwise, and while an
/// exception unwinds it lets the operation (and its buffers) live on instead of waiting for peers
/// that may never come.
class [[nodiscard]] Work {
 public:
  /// What a backend keeps of a started operation. Dropped before its end, it lets the operation
  /// and its buffers live on.
  struct State {
    virtual ~State() = default;
    virtual void wait() = 0;
    virtual void wait_on_host() { wait(); }
    virtual bool test() = 0;
  };
  Work();  ///< finished
  explicit Work(std::unique_ptr<State> state);
  Work(Work&&) noexcept;
  Work& operator=(Work&&) noexcept;
  ~Work();

  /// After this the buffers may be used again; throws its error once. Host memory: sleeps until
  /// the operation is done. GPU memory: what this thread's current stream is given from now on
  /// waits for it, and the thread goes on.
  void wait();
  /// Sleeps until the operation is done, GPU or not; throws its error once.
  void wait_on_host();
  /// True once it is done; throws its error once. Never blocks.
  bool test();

 private:
  std::unique_ptr<State> state_;
};

/// The last argument of each call, `name`, is for observers ("bucket 3").
class Collectives {
 public:
  virtual ~Collectives() = default;

  /// In place, any numel.
  virtual Work all_reduce(at::Tensor& flat, ReduceOp op, std::string_view name = {}) = 0;
  /// in.numel() == size * out.numel(); rank r receives the r-th slice of the reduction.
  /// out may be exactly this rank's slice of in; no other overlap. A bfloat16 `in` needs a float32
  /// `out`: every rank's contribution (its own too) is the bfloat16 value, the sum stays float32.
  virtual Work reduce_scatter(const at::Tensor& in, at::Tensor& out, ReduceOp op,
                              std::string_view name = {}) = 0;
  /// out.numel() == size * in.numel(), same dtype; in may be exactly this rank's slice of out.
  virtual Work all_gather(const at::Tensor& in, at::Tensor& out, std::string_view name = {}) = 0;
  virtual Work broadcast(at::Tensor& tensor, int root, std::string_view name = {}) = 0;
  /// To or from another rank; sizes must match. Messages of one pair arrive in order.
  virtual Work send(const at::Tensor& tensor, int to, std::string_view name = {}) = 0;
  virtual Work recv(at::Tensor& tensor, int from, std::string_view name = {}) = 0;

  const Communicator& communicator() const { return communicator_; }
  /// Whether sums are 0 + 1 + 2 ..., with the bits that every other such Collectives gives.
  virtual bool sums_in_rank_order() const { return true; }

 protected:
  explicit Collectives(Communicator communicator) : communicator_(std::move(communicator)) {}

 private:
  Communicator communicator_;
};

struct CollectivesOptions {
  /// Of the communicator's ranks: all_reduce, reduce_scatter and all_gather go inside the hosts,
  /// then between them (dist/two_level.h). None: in one level.
  std::optional<Topology> two_level = std::nullopt;
};

/// COLLECTIVE. Over the ranks of this communicator, on a duplicate of it, so that its traffic never
/// meets that of the communicator itself. MPI, simulated or a lone rank, as the communicator is.
/// `name` is what observers call the channel ("gradients").
std::unique_ptr<Collectives> make_collectives(const Communicator& communicator,
                                              std::string_view name = "collectives",
                                              const CollectivesOptions& options = {});

}  // namespace trestle::dist
