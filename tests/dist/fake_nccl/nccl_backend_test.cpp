// The NCCL backend without its tensors, on the fake NCCL: order of streams, turns of communicators,
// messages, errors and ends. That the real library is called rightly shows on a GPU only
// (collectives_gpu_mpi_test.cpp).
#include "dist/cuda/nccl_backend.h"

#include "dist/cuda/nccl_steps.h"
#include "dist/operation_observer.h"
#include "dist/simulated.h"
#include "tests/dist/fake_nccl/fake_nccl.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

namespace trestle::dist {
namespace {

using namespace std::chrono_literals;

template <class T>
using Memory = std::shared_ptr<std::vector<T>>;

template <class T>
Memory<T> memory(size_t count, T value = T(-1)) {
  return std::make_shared<std::vector<T>>(count, value);
}

template <class T>
std::span<std::byte> bytes(const Memory<T>& memory) {
  return std::as_writable_bytes(std::span(*memory));
}

/// One rank, its backend and the stream it computes on.
struct Site {
  const Communicator& world;
  NcclBackend& backend;
  cudaStream_t stream;

  int rank() const { return world.rank(); }
  int size() const { return world.size(); }
  NcclRanks ranks() const { return {rank(), size()}; }

  /// The stream fills the memory some time later.
  template <class T>
  Memory<T> filled(std::vector<T> values) const {
    auto into = memory<T>(values.size());
    fake::on(
        stream, [=] { std::ranges::copy(values, into->begin()); }, 2);
    return into;
  }

  template <class T>
  std::shared_ptr<NcclOperation> issue(std::string_view kind, const Memory<T>& keep,
                                       std::vector<NcclStep> steps,
                                       std::string_view name = {}) const {
    return backend.collective({.kind = kind, .name = name, .keep = keep}, bytes(keep).size(),
                              std::move(steps), stream);
  }

  /// What the stream finds in the memory once the operation is done, with no one else waiting.
  template <class T>
  std::vector<T> after(NcclOperation& operation, const Memory<T>& result) const {
    operation.block(stream);
    auto seen = memory<T>(0);
    fake::on(stream, [=] { *seen = *result; });
    CudaEvent end;
    end.record(stream);
    while (!end.is_complete()) std::this_thread::sleep_for(100us);
    return *seen;
  }
};

void with_ranks(int ranks, const std::function<void(const Site&)>& body,
                const NcclOptions& options = {}) {
  SCOPED_TRACE(fmt::format("{} ranks", ranks));
  simulate(
      ranks,
      [&](const Communicator& world) {
        cudaSetDevice(0);
        const CudaStream stream;
        NcclBackend backend(world, 0, options, "gradients");
        body({world, backend, stream.get()});
      },
      Progress::Start::at_once);
  EXPECT_EQ(fake::misuses(), 0);
  EXPECT_EQ(fake::live_communicators(), 0);
}

/// What a rank brings: whole numbers, whose sums are exact in any order.
template <class T>
std::vector<T> numbers(int rank, int64_t count) {
  std::vector<T> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = T((i * 7 + rank * 11) % 101);
  return values;
}

template <class T>
std::vector<T> combined(int ranks, int64_t count, ReduceOp op) {
  std::vector<T> result = numbers<T>(0, count);
  for (int rank = 1; rank < ranks; ++rank) {
    const std::vector<T> other = numbers<T>(rank, count);
    for (int64_t i = 0; i < count; ++i) {
      result[i] = op == ReduceOp::sum   ? result[i] + other[i]
                  : op == ReduceOp::max ? std::max(result[i], other[i])
                                        : std::min(result[i], other[i]);
    }
  }
  return result;
}

template <class T>
constexpr Arithmetic kArithmetic = std::is_same_v<T, float>    ? Arithmetic::float32
                                   : std::is_same_v<T, double> ? Arithmetic::float64
                                                               : Arithmetic::int64;

template <class T>
void reductions(const Site& site) {
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    for (const int64_t count : {0, 1, 5, 64}) {
      SCOPED_TRACE(fmt::format("op {}, {} elements", static_cast<int>(op), count));
      const auto staging = memory<double>(3 * site.size());  // several rounds
      const auto all = site.filled(numbers<T>(site.rank(), count));
      const auto sum = site.issue(
          "all_reduce", all,
          all_reduce_steps(site.ranks(), all->data(), count, kArithmetic<T>, op, bytes(staging)));
      EXPECT_EQ(site.after(*sum, all), combined<T>(site.size(), count, op));

      const std::vector<T> brought = numbers<T>(site.rank(), count * site.size());
      const auto in = site.filled(brought);
      const auto out = memory<T>(count);
      const auto scatter =
          site.issue("reduce_scatter", out,
                     reduce_scatter_steps(site.ranks(), in->data(), out->data(), count,
                                          kArithmetic<T>, op, bytes(staging)));
      const std::vector<T> whole = combined<T>(site.size(), count * site.size(), op);
      const std::vector<T> mine(whole.begin() + site.rank() * count,
                                whole.begin() + (site.rank() + 1) * count);
      EXPECT_EQ(site.after(*scatter, out), mine);
      EXPECT_EQ(*in, brought) << "the input was written";

      T* const slice = in->data() + site.rank() * count;
      const auto in_place = site.issue("reduce_scatter", in,
                                       reduce_scatter_steps(site.ranks(), in->data(), slice, count,
                                                            kArithmetic<T>, op, bytes(staging)));
      const std::vector<T> after = site.after(*in_place, in);
      EXPECT_EQ(std::vector<T>(after.begin() + site.rank() * count,
                               after.begin() + (site.rank() + 1) * count),
                mine)
          << "in place";
    }
  }
}

TEST(NcclBackend, ReductionsOfWhatTheStreamBrings) {
  for (const int ranks : {1, 2, 3, 4}) {
    with_ranks(ranks, [](const Site& site) {
      reductions<float>(site);
      reductions<double>(site);
      reductions<std::int64_t>(site);
    });
  }
}

TEST(NcclBackend, Bfloat16IsSummedInFloat32InRankOrder) {
  // One is large, one takes it away again, one is lost if it comes between.
  const auto bits = [](int rank, int64_t i) {
    constexpr float kRoles[] = {0x1.8p26f, -0x1.8p26f, 1.0f};
    const float value = kRoles[(rank + i) % 3] * static_cast<float>(1 + i % 5);
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
  };
  const auto value = [&](int rank, int64_t i) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits(rank, i)) << 16);
  };
  for (const int ranks : {1, 2, 3, 6}) {
    with_ranks(ranks, [&](const Site& site) {
      constexpr int64_t kCount = 11;
      std::vector<std::uint16_t> brought(kCount * site.size());
      for (size_t i = 0; i < brought.size(); ++i) brought[i] = bits(site.rank(), i);
      const auto in = site.filled(brought);
      const auto out = memory<float>(kCount), staging = memory<float>(2 * site.size());
      const auto sum = site.issue(
          "reduce_scatter", out,
          reduce_scatter_steps(site.ranks(), in->data(), out->data(), kCount,
                               Arithmetic::bfloat16_to_float32, ReduceOp::sum, bytes(staging)));
      const std::vector<float> result = site.after(*sum, out);
      int order_shows = 0;
      for (int64_t i = 0; i < kCount; ++i) {
        const int64_t at = site.rank() * kCount + i;
        float expected = value(0, at), backwards = value(site.size() - 1, at);
        for (int rank = 1; rank < site.size(); ++rank) {
          expected += value(rank, at);
          backwards += value(site.size() - 1 - rank, at);
        }
        EXPECT_EQ(result[i], expected);
        order_shows += expected != backwards ? 1 : 0;
      }
      EXPECT_TRUE(site.size() < 3 || order_shows > 0) << "this would not find another order";
    });
  }
}

TEST(NcclBackend, MaxAndMinKeepANan) {
  with_ranks(3, [](const Site& site) {
    for (const ReduceOp op : {ReduceOp::max, ReduceOp::min, ReduceOp::sum}) {
      std::vector<float> values(3, 1.0f);
      values[site.rank()] = std::numeric_limits<float>::quiet_NaN();
      const auto all = site.filled(values);
      const auto staging = memory<float>(6);
      const auto done = site.issue(
          "all_reduce", all,
          all_reduce_steps(site.ranks(), all->data(), 3, Arithmetic::float32, op, bytes(staging)));
      for (const float each : site.after(*done, all)) EXPECT_TRUE(std::isnan(each));
    }
  });
}

TEST(NcclBackend, StagingHoldsWhatItSays) {
  const NcclRanks ranks{.rank = 0, .size = 8};
  EXPECT_EQ(staging_bytes(ranks, 1 << 30, Arithmetic::float32, ReduceOp::sum), 0u);
  EXPECT_EQ(staging_bytes(ranks, 1 << 30, Arithmetic::int64, ReduceOp::max), 0u);
  EXPECT_EQ(staging_bytes(ranks, 0, Arithmetic::float32, ReduceOp::max), 0u);
  EXPECT_EQ(staging_bytes(ranks, 100, Arithmetic::bfloat16_to_float32, ReduceOp::sum), 1600u);
  EXPECT_EQ(staging_bytes(ranks, 100, Arithmetic::float64, ReduceOp::min), 6400u);
  EXPECT_EQ(staging_bytes(ranks, 1 << 30, Arithmetic::bfloat16_to_float32, ReduceOp::sum),
            32u << 20);
}

TEST(NcclBackend, ManyOperationsAtOnce) {
  for (const int ranks : {1, 2, 4}) {
    with_ranks(ranks, [](const Site& site) {
      struct Issued {
        Memory<std::int64_t> in, out;
        std::vector<std::int64_t> expected;
        std::shared_ptr<NcclOperation> operation;
      };
      std::vector<Issued> issued;
      for (int i = 0; i < 24; ++i) {
        const int64_t count = 1 + i % 5;
        Issued it;
        it.in = site.filled(numbers<std::int64_t>(site.rank() + i, count));
        if (i % 3 == 0) {
          it.out = it.in;
          it.expected = numbers<std::int64_t>(i % site.size() + i, count);
          it.operation =
              site.issue("broadcast", it.in, broadcast_steps(bytes(it.in), i % site.size()));
        } else if (i % 3 == 1) {
          it.out = memory<std::int64_t>(count * site.size());
          for (int rank = 0; rank < site.size(); ++rank) {
            for (const auto each : numbers<std::int64_t>(rank + i, count)) {
              it.expected.push_back(each);
            }
          }
          it.operation =
              site.issue("all_gather", it.in, all_gather_steps(bytes(it.in), bytes(it.out).data()));
        } else {
          it.out = it.in;
          it.expected.assign(count, 0);
          for (int rank = 0; rank < site.size(); ++rank) {
            const auto each = numbers<std::int64_t>(rank + i, count);
            for (int64_t k = 0; k < count; ++k) it.expected[k] += each[k];
          }
          it.operation = site.issue("all_reduce", it.in,
                                    all_reduce_steps(site.ranks(), it.in->data(), count,
                                                     Arithmetic::int64, ReduceOp::sum, {}));
        }
        issued.push_back(std::move(it));
      }
      for (size_t i = 0; i < issued.size(); ++i) {
        Issued& it = issued[(i * 7 + site.rank()) % issued.size()];  // every rank in another order
        EXPECT_EQ(site.after(*it.operation, it.out), it.expected);
      }
    });
  }
}

TEST(NcclBackend, EveryoneSendsBeforeAnyoneReceives) {
  for (const int ranks : {2, 3, 4}) {
    with_ranks(ranks, [](const Site& site) {
      const int next = (site.rank() + 1) % site.size();
      const int last = (site.rank() + site.size() - 1) % site.size();
      std::vector<std::shared_ptr<NcclOperation>> sent;
      for (const int tens : {10, 20}) {
        const auto out = site.filled(std::vector<int>(5, tens + site.rank()));
        sent.push_back(
            site.backend.send({.kind = "send", .keep = out}, bytes(out), next, site.stream));
      }
      // A collective between them is no obstacle: rank 0 makes it before it receives.
      const auto sum = site.filled(std::vector<float>{1});
      const auto reduced = site.issue(
          "all_reduce", sum,
          all_reduce_steps(site.ranks(), sum->data(), 1, Arithmetic::float32, ReduceOp::sum, {}));
      if (site.rank() == 0) reduced->wait_on_host();
      for (const int tens : {10, 20}) {
        const auto in = memory<int>(5);
        const auto received =
            site.backend.receive({.kind = "recv", .keep = in}, bytes(in), last, site.stream);
        EXPECT_EQ(site.after(*received, in), std::vector<int>(5, tens + last));
      }
      for (const auto& each : sent) each->wait_on_host();
      EXPECT_EQ(site.after(*reduced, sum), std::vector<float>{float(site.size())});
    });
  }
}

TEST(NcclBackend, AnOperationHoldsItsMemoryUntilTheGpuIsDone) {
  with_ranks(1, [](const Site& site) {
    std::atomic<bool> is_open = false;
    fake::on(site.stream, [&] {
      while (!is_open) std::this_thread::sleep_for(100us);
    });
    auto held = memory<float>(4);
    const std::weak_ptr<std::vector<float>> watched = held;
    const auto operation = site.issue(
        "all_reduce", held,
        all_reduce_steps(site.ranks(), held->data(), 4, Arithmetic::float32, ReduceOp::sum, {}));
    held.reset();
    operation->block(site.stream);  // the host goes on
    EXPECT_FALSE(operation->is_complete());
    EXPECT_FALSE(watched.expired());
    is_open = true;
    operation->wait_on_host();
    EXPECT_TRUE(operation->is_complete());
    for (int i = 0; i < 500 && !watched.expired(); ++i) std::this_thread::sleep_for(10ms);
    EXPECT_TRUE(watched.expired()) << "though the operation itself still lives";
  });
}

struct Ears : OperationObserver {
  std::uint64_t queued(const OperationInfo& info) override {
    if (info.channel_name != "gradients" || info.name == "NCCL id") return 0;
    std::string peer = info.peer < 0 ? "" : fmt::format(" {}", info.peer);
    lines.push_back(
        fmt::format("{} {} {} {}{}", info.sequence, info.kind, info.name, info.bytes, peer));
    return lines.size();
  }
  void started(std::uint64_t id) override { mark(id, '+'); }
  void finished(std::uint64_t id) override { mark(id, '.'); }
  void mark(std::uint64_t id, char mark) {
    if (id > 0) lines[id - 1] += mark;
  }
  std::vector<std::string> lines;
};

TEST(NcclBackend, ObserversHearOfEveryOperation) {
  simulate(
      2,
      [](const Communicator& world) {
        cudaSetDevice(0);
        const CudaStream stream;
        Ears ears;
        {
          NcclBackend backend(world, 0, {}, "gradients");
          world.observe(&ears);
          const Site site{world, backend, stream.get()};
          const auto values = memory<float>(3);
          for (const std::string name : {"bucket 0", "bucket 1"}) {
            site.issue("all_reduce", values,
                       all_reduce_steps(site.ranks(), values->data(), 3, Arithmetic::float32,
                                        ReduceOp::sum, {}),
                       name);
          }
          if (world.rank() == 0) {
            backend.send({.kind = "send", .name = "map", .keep = values}, bytes(values), 1,
                         stream.get());
          } else {
            backend.receive({.kind = "recv", .name = "map", .keep = values}, bytes(values), 0,
                            stream.get());
          }
        }  // waits for all of them
        world.observe(nullptr);
        const std::string message =
            world.rank() == 0 ? "1 send map 12 1+." : "1 recv map 12 0+.";  // 0 carried the id
        EXPECT_EQ(ears.lines, (std::vector<std::string>{"0 all_reduce bucket 0 12+.",
                                                        "1 all_reduce bucket 1 12+.", message}));
      },
      Progress::Start::at_once);
}

std::string failure_of(ExitCode code, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "no failure";
}

TEST(NcclBackend, ALostPeerReachesEveryWaitAndEveryLaterCall) {
  simulate(
      3,
      [](const Communicator& world) {
        cudaSetDevice(0);
        const CudaStream stream;
        const auto backend = std::make_unique<NcclBackend>(world, 0, NcclOptions{}, "gradients");
        const Site site{world, *backend, stream.get()};
        const auto values = memory<float>(3);
        const auto steps = all_reduce_steps(site.ranks(), values->data(), 3, Arithmetic::float32,
                                            ReduceOp::sum, {});
        if (world.rank() == 1) {
          world.barrier();
          // It fails on its own: no memory, say.
          const auto failing = site.issue("all_reduce", values, {[](auto, auto) -> ncclResult_t {
                                            fail(ExitCode::environment, "out of memory");
                                          }});
          EXPECT_EQ(failure_of(ExitCode::environment, [&] { failing->block(stream.get()); }),
                    "out of memory");
          EXPECT_EQ(
              failure_of(ExitCode::environment, [&] { site.issue("all_reduce", values, steps); }),
              "out of memory");
          return;
        }
        const auto first = site.issue("all_reduce", values, steps, "bucket 3");
        const auto second = site.issue("all_reduce", values, steps, "bucket 4");
        first->block(stream.get());
        EXPECT_FALSE(first->is_complete());
        world.barrier();
        const auto expect_lost = [&](const std::function<void()>& f) {
          const std::string text = failure_of(ExitCode::peer, f);
          EXPECT_TRUE(text.starts_with(fmt::format("rank {} on ", world.rank()))) << text;
          EXPECT_NE(text.find("NCCL failed in all_reduce \"bucket "), std::string::npos) << text;
          EXPECT_NE(text.find("(remote error)"), std::string::npos) << text;
        };
        expect_lost([&] { first->wait_on_host(); });
        // What waits on the GPU for the lost rank comes to its end, too.
        CudaEvent end;
        end.record(stream.get());
        for (int i = 0; i < 500 && !end.is_complete(); ++i) std::this_thread::sleep_for(10ms);
        EXPECT_TRUE(end.is_complete());
        expect_lost([&] { second->block(stream.get()); });
        expect_lost([&] { second->is_complete(); });
        expect_lost([&] { site.issue("all_reduce", values, steps); });
      },
      Progress::Start::at_once);
  EXPECT_EQ(fake::misuses(), 0);
  EXPECT_EQ(fake::live_communicators(), 0);
}

TEST(NcclBackend, ACallThatNcclRefusesBreaksTheBackend) {
  with_ranks(1, [](const Site& site) {
    const auto values = memory<float>(3), all = memory<float>(3);
    fake::fail_next_all_gather(ncclInvalidUsage);
    const auto operation =
        site.issue("all_gather", values, all_gather_steps(bytes(values), bytes(all).data()));
    const std::string text =
        failure_of(ExitCode::environment, [&] { operation->block(site.stream); });
    EXPECT_NE(text.find("NCCL failed in all_gather (other)"), std::string::npos) << text;
  });
}

TEST(NcclBackend, SetUpEndsInTime) {
  fake::keep_set_up_waiting(true);
  simulate(
      3,
      [](const Communicator& world) {
        cudaSetDevice(0);
        try {
          NcclBackend(world, 0, {.set_up_timeout_s = 0.1}, "gradients");
          ADD_FAILURE() << "it came to its end";
        } catch (const AgreedError& error) {
          EXPECT_EQ(error.code(), ExitCode::environment);
          const std::string_view text = error.what();
          EXPECT_TRUE(text.starts_with("rank 0")) << text;
          EXPECT_NE(text.find("could not join the other ranks in NCCL within 0.1 s"), text.npos)
              << text;
        }
      },
      Progress::Start::at_once);
  fake::keep_set_up_waiting(false);
  EXPECT_EQ(fake::live_communicators(), 0);
}

TEST(NcclBackend, UnwindingDoesNotWaitForRanksThatNeverCome) {
  simulate(
      2,
      [](const Communicator& world) {
        cudaSetDevice(0);
        const CudaStream stream;
        try {
          NcclBackend backend(world, 0, {}, "gradients");
          const Site site{world, backend, stream.get()};
          const auto values = memory<float>(3);
          if (world.rank() == 0) {
            site.issue("all_reduce", values,
                       all_reduce_steps(site.ranks(), values->data(), 3, Arithmetic::float32,
                                        ReduceOp::sum, {}));
            backend.send({.kind = "send", .keep = values}, bytes(values), 1, stream.get());
          }
          throw std::runtime_error("in between");
        } catch (const std::runtime_error&) {
        }
        world.barrier();
      },
      Progress::Start::at_once);
  EXPECT_EQ(fake::live_communicators(), 0);
}

}  // namespace
}  // namespace trestle::dist
