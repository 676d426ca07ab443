// What every Collectives must do, whatever carries its bytes; run over simulated ranks by
// collectives_test.cpp, over MPI by collectives_mpi_test.cpp and over NCCL by
// collectives_gpu_mpi_test.cpp. Reductions are compared, bit for bit where the backend promises
// that, with a loop over ranks in order.
#pragma once
#include "dist/collectives.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace trestle::dist::testing_cases {

/// The backend that the cases run on.
struct Site {
  at::Device device = at::kCPU;
  bool sums_in_rank_order = true;
  std::function<std::unique_ptr<Collectives>(const Communicator&)> another =
      [](const Communicator& ranks) { return make_collectives(ranks); };

  at::Tensor place(const at::Tensor& host) const { return host.to(device); }
};

struct CollectiveCase {
  const char* name;
  void (*run)(Collectives&, const Site&);
};

// Around every border: none, fewer than ranks, not divisible, a few hundred.
inline constexpr int64_t kCounts[] = {0, 1, 2, 3, 5, 12, 64, 257, 1000};

/// What `rank` brings; every rank can compute everyone's. Magnitudes differ so much that another
/// order of summation gives other bits.
inline at::Tensor contribution(int rank, int64_t count, at::ScalarType dtype) {
  std::mt19937_64 bits(1000003u * rank + count);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> exponent(-4, 4);
  at::Tensor values = at::empty({count}, at::kDouble);
  for (int64_t i = 0; i < count; ++i) {
    values.data_ptr<double>()[i] = normal(bits) * std::pow(10, exponent(bits));
  }
  return values.to(dtype);
}

template <class T>
void reduce_serially(at::Tensor& into, const at::Tensor& from, ReduceOp op) {
  T* const a = into.data_ptr<T>();
  const T* const b = from.data_ptr<T>();
  for (int64_t i = 0; i < into.numel(); ++i) {
    a[i] = op == ReduceOp::sum   ? a[i] + b[i]
           : op == ReduceOp::max ? std::max(a[i], b[i])
                                 : std::min(a[i], b[i]);
  }
}

/// Over all ranks, in the given order.
inline at::Tensor reduced(const std::vector<int>& order, int64_t count, at::ScalarType dtype,
                          ReduceOp op) {
  at::Tensor result = contribution(order[0], count, dtype);
  for (size_t i = 1; i < order.size(); ++i) {
    const at::Tensor next = contribution(order[i], count, dtype);
    if (dtype == at::kFloat) reduce_serially<float>(result, next, op);
    if (dtype == at::kDouble) reduce_serially<double>(result, next, op);
    if (dtype == at::kLong) reduce_serially<int64_t>(result, next, op);
  }
  return result;
}

inline at::Tensor reduced(int ranks, int64_t count, at::ScalarType dtype, ReduceOp op) {
  std::vector<int> order(ranks);
  for (int rank = 0; rank < ranks; ++rank) order[rank] = rank;
  return reduced(order, count, dtype, op);
}

inline bool same_bits(const at::Tensor& one, const at::Tensor& other) {
  const at::Tensor a = one.cpu(), b = other.cpu();
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.nbytes() == 0 || std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0);
}

/// A result and, where another order of summation is allowed, how far rounding may lead from it.
struct Expected {
  at::Tensor value, slack = {};

  Expected narrow(int64_t begin, int64_t count) const {
    return {value.narrow(0, begin, count),
            slack.defined() ? slack.narrow(0, begin, count) : at::Tensor()};
  }
};

inline Expected reduced(const Site& site, int ranks, int64_t count, at::ScalarType dtype,
                        ReduceOp op) {
  Expected expected{reduced(ranks, count, dtype, op)};
  if (site.sums_in_rank_order || op != ReduceOp::sum || dtype == at::kLong) return expected;
  expected.slack = at::zeros({count}, at::kDouble);
  for (int rank = 0; rank < ranks; ++rank) {
    expected.slack += contribution(rank, count, dtype).to(at::kDouble).abs();
  }
  expected.slack *= ranks * (dtype == at::kFloat ? std::exp2(-24) : std::exp2(-53));
  return expected;
}

inline bool matches(const at::Tensor& result, const Expected& expected) {
  if (!expected.slack.defined()) return same_bits(result, expected.value);
  const at::Tensor error = result.cpu().to(at::kDouble) - expected.value.to(at::kDouble);
  return result.scalar_type() == expected.value.scalar_type() &&
         error.abs().le(expected.slack).all().item<bool>();
}

template <class F>
void for_each_reduction(F&& f) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kLong}) {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      for (const int64_t count : kCounts) {
        SCOPED_TRACE(fmt::format("{} of {} {}", static_cast<int>(op), count, c10::toString(dtype)));
        f(dtype, op, count);
      }
    }
  }
}

inline void all_reduce_equals_the_serial_loop(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  for_each_reduction([&](at::ScalarType dtype, ReduceOp op, int64_t count) {
    at::Tensor values = site.place(contribution(rank, count, dtype));
    Work work = c.all_reduce(values, op);
    work.wait();
    EXPECT_TRUE(work.test());
    EXPECT_TRUE(matches(values, reduced(site, size, count, dtype, op)));
  });
}

inline void reduce_scatter_equals_the_serial_loop(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  for_each_reduction([&](at::ScalarType dtype, ReduceOp op, int64_t count) {
    const Expected expected =
        reduced(site, size, size * count, dtype, op).narrow(rank * count, count);
    at::Tensor in = site.place(contribution(rank, size * count, dtype));
    const at::Tensor before = in.clone();
    at::Tensor out = at::full({count}, 99, in.options());
    c.reduce_scatter(in, out, op).wait();
    EXPECT_TRUE(matches(out, expected));
    EXPECT_TRUE(same_bits(in, before)) << "the input was written";

    at::Tensor slice = in.narrow(0, rank * count, count);
    c.reduce_scatter(in, slice, op).wait();
    EXPECT_TRUE(matches(slice, expected)) << "in place";
  });
}

inline void bfloat16_is_summed_in_float32(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  const auto bits_of = [&](int r, int64_t count) {
    return contribution(r, size * count, at::kDouble).to(at::kBFloat16);
  };
  for (const int64_t count : kCounts) {
    const at::Tensor in = site.place(bits_of(rank, count));
    at::Tensor result = at::full({count}, 99, in.options().dtype(at::kFloat));
    c.reduce_scatter(in, result, ReduceOp::sum).wait();
    const at::Tensor out = result.cpu();
    // Nothing of torch: a bfloat16 is the upper half of a float.
    std::vector<at::Tensor> all;
    for (int r = 0; r < size; ++r) all.push_back(bits_of(r, count));
    for (int64_t i = 0; i < count; ++i) {
      const auto value = [&](int r) {
        const auto* bits = static_cast<const uint16_t*>(all[r].data_ptr()) + rank * count + i;
        return std::bit_cast<float>(uint32_t{*bits} << 16);
      };
      float sum = value(0);
      for (int r = 1; r < size; ++r) sum += value(r);
      ASSERT_EQ(std::bit_cast<uint32_t>(out.data_ptr<float>()[i]), std::bit_cast<uint32_t>(sum));
    }
    EXPECT_TRUE(same_bits(in, bits_of(rank, count))) << "the input was written";
  }
}

inline void many_operations_at_once(Collectives& c, const Site& site) {
  // More than may be in flight, of all kinds and sizes, waited for in another order on each rank.
  const int rank = c.communicator().rank(), size = c.communicator().size();
  struct Issued {
    at::Tensor in, out;
    Expected expected = {};
    Work work = {};
  };
  std::vector<Issued> issued;
  for (int i = 0; i < 36; ++i) {
    const int64_t count = kCounts[i % std::size(kCounts)] * (1 + 4 * (i % 3));
    const Expected whole = reduced(site, size, size * count, at::kFloat, ReduceOp::sum);
    Issued& it = issued.emplace_back();
    it.in = site.place(contribution(rank, size * count, at::kFloat));
    switch (i % 4) {
      case 0:
        it.out = it.in;
        it.expected = whole;
        it.work = c.all_reduce(it.out, ReduceOp::sum, "sum");
        break;
      case 1:
        it.out = at::full({count}, 99, it.in.options());
        it.expected = whole.narrow(rank * count, count);
        it.work = c.reduce_scatter(it.in, it.out, ReduceOp::sum);
        break;
      case 2:
        it.out = at::zeros({size, size * count}, it.in.options());
        it.expected.value = at::empty({size, size * count});
        for (int r = 0; r < size; ++r) {
          it.expected.value[r].copy_(contribution(r, size * count, at::kFloat));
        }
        it.work = c.all_gather(it.in, it.out);
        break;
      default:
        it.out = it.in;
        it.expected.value = contribution(i % size, size * count, at::kFloat);
        it.work = c.broadcast(it.out, i % size);
    }
  }
  std::mt19937 order(rank);
  std::ranges::shuffle(issued, order);
  for (Issued& it : issued) {
    it.work.wait();
    EXPECT_TRUE(matches(it.out, it.expected));
  }
}

inline void a_stalled_channel_stops_no_other(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  const auto other = site.another(c.communicator());
  if (size == 1) return;
  at::Tensor stalled = site.place(contribution(rank, 1000, at::kFloat));
  Work work;
  if (rank != size - 1) work = c.all_reduce(stalled, ReduceOp::sum);
  for (int i = 0; i < 5; ++i) {
    at::Tensor values = site.place(contribution(rank, 5000, at::kFloat));
    other->all_reduce(values, ReduceOp::sum).wait();
    EXPECT_TRUE(matches(values, reduced(site, size, 5000, at::kFloat, ReduceOp::sum)));
    EXPECT_TRUE(rank == size - 1 || !work.test()) << "without the last rank";
  }
  other->communicator().barrier();
  if (rank == size - 1) work = c.all_reduce(stalled, ReduceOp::sum);
  work.wait();
  EXPECT_TRUE(matches(stalled, reduced(site, size, 1000, at::kFloat, ReduceOp::sum)));
}

inline void threads_use_channels_at_once(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  const auto second = site.another(c.communicator());
  const Communicator third = c.communicator().duplicate();
  const auto rounds = [&](Collectives& collectives, int64_t count, int times) {
    const Expected expected = reduced(site, size, count, at::kDouble, ReduceOp::sum);
    for (int i = 0; i < times; ++i) {
      at::Tensor values = site.place(contribution(rank, count, at::kDouble));
      collectives.all_reduce(values, ReduceOp::sum).wait();
      EXPECT_TRUE(matches(values, expected)) << "round " << i;
    }
  };
  std::jthread small([&] { rounds(*second, 3, 60); });
  std::jthread words([&] {
    for (int i = 0; i < 60; ++i) {
      EXPECT_EQ(third.broadcast_bytes(std::to_string(i), i % size), std::to_string(i));
    }
  });
  rounds(c, 20'000, 12);
}

inline void large_tensors_pass_through_staging(Collectives& c, const Site& site) {
  // Several rounds of the 8 MiB that a reduction stages, the last one short.
  const int rank = c.communicator().rank(), size = c.communicator().size();
  const int64_t count = (int64_t{9} << 20) / 4 * 2 + 13;
  at::Tensor values = site.place(at::full({count}, 0.1f, at::kFloat));
  values[count - 1] = static_cast<float>(rank);
  values[count / 2] = static_cast<float>(rank * rank);
  float tenths = 0.1f, last = 0, middle = 0;
  for (int r = 0; r < size; ++r) {
    if (r > 0) tenths += 0.1f;
    last += static_cast<float>(r);
    middle += static_cast<float>(r * r);
  }
  c.all_reduce(values, ReduceOp::sum).wait();
  EXPECT_EQ(values[count - 1].item<float>(), last);
  EXPECT_EQ(values[count / 2].item<float>(), middle);
  const float slack = site.sums_in_rank_order ? 0 : 1e-6f;
  EXPECT_EQ((values - tenths).abs().le(slack).sum().item<int64_t>(), count - 2);
}

inline void all_gather_of_any_dtype(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kByte, at::kLong}) {
    for (const int64_t count : kCounts) {
      const auto of_rank = [&](int r) { return at::full({count}, 3 * r + 1, dtype); };
      const at::Tensor in = site.place(of_rank(rank));
      at::Tensor out = at::zeros({size, count}, in.options());  // shapes do not matter, counts do
      c.all_gather(in, out).wait();
      for (int r = 0; r < size; ++r) EXPECT_TRUE(same_bits(out[r], of_rank(r)));

      at::Tensor in_place = at::zeros({size, count}, in.options());
      in_place[rank].copy_(of_rank(rank));
      c.all_gather(in_place[rank], in_place).wait();
      EXPECT_TRUE(same_bits(in_place, out)) << "in place";
    }
  }
}

inline void broadcasts_from_every_root(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  for (int root = 0; root < size; ++root) {
    for (const int64_t count : kCounts) {
      at::Tensor values = site.place(contribution(rank, count, at::kDouble).to(at::kBFloat16));
      c.broadcast(values, root).wait();
      EXPECT_TRUE(same_bits(values, contribution(root, count, at::kDouble).to(at::kBFloat16)));
    }
  }
}

inline void passes_messages_around_a_ring(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  if (size == 1) return;
  const int next = (rank + 1) % size, last = (rank + size - 1) % size;
  // Large enough that no library hides it in a buffer: everyone sends before anyone receives.
  const int64_t count = 1 << 19;
  const auto options = at::TensorOptions(site.device).dtype(at::kInt);
  const at::Tensor first = at::full({count}, rank, options);
  const at::Tensor second = at::full({count}, 100 + rank, options);
  at::Tensor in_first = at::empty({count}, options), in_second = at::empty({count}, options);
  Work send_first = c.send(first, next), send_second = c.send(second, next);
  Work recv_first = c.recv(in_first, last), recv_second = c.recv(in_second, last);
  recv_second.wait();  // waiting out of order changes nothing
  while (!recv_first.test()) {
  }
  send_second.wait();
  send_first.wait();
  EXPECT_TRUE(in_first.eq(last).all().item<bool>());
  EXPECT_TRUE(in_second.eq(100 + last).all().item<bool>());

  // A handle that is dropped, or assigned over, finishes its operation, and keeps its tensor.
  at::Tensor in = at::empty({count}, options);
  {
    Work send = c.send(at::full({count}, 7 * rank, options), next);
    Work recv = c.recv(in, last);
    recv = Work();
    EXPECT_TRUE(in.eq(7 * last).all().item<bool>());
  }
  at::Tensor nothing = at::empty({0}, options);
  c.recv(nothing, last).wait();  // no bytes, no message, no waiting
}

inline void refuses_what_it_cannot_do(Collectives& c, const Site& site) {
  const int rank = c.communicator().rank(), size = c.communicator().size();
  const auto text_of = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::environment);
      return error.what();
    }
    return "";
  };
  const auto options = at::TensorOptions(site.device);
  at::Tensor half = at::zeros({4 * size}, options.dtype(at::kBFloat16));
  at::Tensor meta = at::zeros({4}, at::kMeta), undefined;
  EXPECT_EQ(text_of([&] { c.all_reduce(half, ReduceOp::sum).wait(); }),
            "all_reduce got a tensor of dtype BFloat16 (this backend reduces Float, Double and "
            "Long). Convert it first.");
  const std::string place = site.device.str();
  EXPECT_EQ(text_of([&] { c.broadcast(meta, 0).wait(); }),
            site.device.is_cpu()
                ? "broadcast got a tensor on meta (this backend moves host memory). Copy it to the "
                  "CPU first."
                : fmt::format("broadcast got a tensor on meta (this backend moves memory of {}). "
                              "Copy it to {} first.",
                              place, place));
  EXPECT_NE(text_of([&] { c.all_reduce(undefined, ReduceOp::sum).wait(); }), "");
  at::Tensor half_part = at::zeros({4}, half.options());
  EXPECT_NE(text_of([&] { c.reduce_scatter(half, half_part, ReduceOp::sum).wait(); }), "");

  at::Tensor in = at::zeros({4 * size}, options), out = at::zeros({4}, options);
  at::Tensor wrong = at::zeros({5}, options), doubles = at::zeros({4}, options.dtype(at::kDouble));
  at::Tensor strided = at::zeros({8}, options).slice(0, 0, 8, 2);
  at::Tensor off_by_one = at::zeros({4 * size + 1}, options).narrow(0, 1, 4 * size);
  at::Tensor overlapping = off_by_one.narrow(0, 4 * rank, 4);
  at::Tensor whole = off_by_one.as_strided({4 * size}, {1}, 0);
  EXPECT_THROW(c.reduce_scatter(in, wrong, ReduceOp::sum).wait(), std::logic_error);
  EXPECT_THROW(c.reduce_scatter(in, doubles, ReduceOp::sum).wait(), std::logic_error);
  EXPECT_THROW(c.all_gather(wrong, in).wait(), std::logic_error);
  EXPECT_THROW(c.all_reduce(strided, ReduceOp::sum).wait(), std::logic_error);
  EXPECT_THROW(c.reduce_scatter(whole, overlapping, ReduceOp::sum).wait(), std::logic_error);
  EXPECT_THROW(c.all_gather(overlapping, whole).wait(), std::logic_error);
  EXPECT_THROW(c.send(out, rank).wait(), std::logic_error);
  EXPECT_THROW(c.recv(out, size).wait(), std::logic_error);
  EXPECT_THROW(c.broadcast(out, size).wait(), std::logic_error);
}

inline void keeps_apart_from_its_communicator(Collectives& c, const Site& site) {
  // Two Collectives of one communicator, used in different orders on different ranks, would mix up
  // their messages on a common channel. The send comes first on one side, last on the other.
  const int rank = c.communicator().rank(), size = c.communicator().size();
  const auto other = site.another(c.communicator());
  if (size == 1) return;
  at::Tensor a = site.place(at::full({8}, rank)), b = site.place(at::full({8}, 10 + rank));
  if (rank == 0) {
    Work first = c.send(a, 1), second = other->send(b, 1);
    first.wait();
    second.wait();
  } else if (rank == 1) {
    other->recv(b, 0).wait();
    c.recv(a, 0).wait();
    EXPECT_TRUE(a.eq(0).all().item<bool>());
    EXPECT_TRUE(b.eq(10).all().item<bool>());
  }
}

inline constexpr CollectiveCase kCollectiveCases[] = {
    {"all_reduce_equals_the_serial_loop", all_reduce_equals_the_serial_loop},
    {"reduce_scatter_equals_the_serial_loop", reduce_scatter_equals_the_serial_loop},
    {"bfloat16_is_summed_in_float32", bfloat16_is_summed_in_float32},
    {"many_operations_at_once", many_operations_at_once},
    {"a_stalled_channel_stops_no_other", a_stalled_channel_stops_no_other},
    {"threads_use_channels_at_once", threads_use_channels_at_once},
    {"large_tensors_pass_through_staging", large_tensors_pass_through_staging},
    {"all_gather_of_any_dtype", all_gather_of_any_dtype},
    {"broadcasts_from_every_root", broadcasts_from_every_root},
    {"passes_messages_around_a_ring", passes_messages_around_a_ring},
    {"refuses_what_it_cannot_do", refuses_what_it_cannot_do},
    {"keeps_apart_from_its_communicator", keeps_apart_from_its_communicator},
};

inline void PrintTo(const CollectiveCase& c, std::ostream* out) { *out << c.name; }

}  // namespace trestle::dist::testing_cases
