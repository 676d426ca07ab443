// What reductions and gathers in two levels must do, whatever carries their bytes; run over
// simulated ranks by two_level_test.cpp and over MPI by two_level_mpi_test.cpp. Results are
// compared, bit for bit, with loops that say the order: ranks of a host first, then hosts. Free of
// torch, so that ThreadSanitizer sees all of it.
#pragma once
#include "dist/channel.h"
#include "dist/two_level.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <vector>

namespace trestle::dist::two_level_cases {

using SharedTopology = std::shared_ptr<const Topology>;

inline SharedTopology hosts(const std::vector<std::string>& names) {
  return std::make_shared<const Topology>(names);
}

/// A letter a rank: "aabb" is two hosts of two ranks.
inline SharedTopology hosts(std::string_view letters) {
  std::vector<std::string> names;
  for (const char letter : letters) names.emplace_back(1, letter);
  return hosts(names);
}

/// The nearer one of the two bfloat16 around a float; of equally near ones, the even one.
inline Bfloat16 nearest_bfloat16(float value) {
  const Bfloat16 below{static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16)};
  const Bfloat16 above{static_cast<std::uint16_t>(below.bits + 1)};
  if (std::isnan(value) || float(below) == value) return below;
  const double down = std::abs(double(value) - double(float(below)));
  // Beyond the largest one lies what would be the next, and stands for infinity.
  const double next = std::isinf(float(above)) ? std::ldexp(1, 128) : std::abs(float(above));
  const double up = next - std::abs(double(value));
  if (down == up) return below.bits % 2 == 0 ? below : above;
  return down < up ? below : above;
}

/// What `rank` brings; every rank can compute everyone's. Magnitudes differ so much that another
/// order of summation gives other bits.
template <class In>
std::vector<In> contribution(int rank, int64_t count) {
  std::mt19937_64 bits(1000003u * rank + count);
  std::uniform_real_distribution<double> exponent(-4, 4), sign(-1, 1);
  std::vector<In> values(count);
  for (In& value : values) {
    const double drawn = std::copysign(std::pow(10, exponent(bits)), sign(bits));
    if constexpr (std::is_same_v<In, Bfloat16>) {
      value = nearest_bfloat16(static_cast<float>(drawn));
    } else {
      value = static_cast<In>(1e3 * drawn);
    }
  }
  return values;
}

template <class T>
T combined(T a, T b, ReduceOp op) {
  return op == ReduceOp::sum ? a + b : op == ReduceOp::max ? std::max(a, b) : std::min(a, b);
}

/// All elements, in the order that dist/two_level.h promises.
template <class In, class T>
std::vector<T> reduced_by_hosts(const Topology& topology, int64_t count, ReduceOp op) {
  std::vector<std::vector<In>> all;
  for (int rank = 0; rank < topology.ranks(); ++rank) {
    all.push_back(contribution<In>(rank, count));
  }
  std::vector<T> result(count);
  for (int64_t i = 0; i < count; ++i) {
    for (int host = 0; host < topology.hosts(); ++host) {
      T of_host{};
      for (int rank = 0, seen = 0; rank < topology.ranks(); ++rank) {
        if (topology.host_of(rank) != host) continue;
        const T value = static_cast<T>(all[rank][i]);
        of_host = seen++ == 0 ? value : combined(of_host, value, op);
      }
      if constexpr (std::is_same_v<In, Bfloat16>) of_host = T(nearest_bfloat16(of_host));
      result[i] = host == 0 ? of_host : combined(result[i], of_host, op);
    }
  }
  return result;
}

/// In the order of ranks.
template <class In, class T>
std::vector<T> reduced_in_one_level(int ranks, int64_t count, ReduceOp op) {
  std::vector<T> result(count);
  for (int rank = 0; rank < ranks; ++rank) {
    const auto values = contribution<In>(rank, count);
    for (int64_t i = 0; i < count; ++i) {
      const T value = static_cast<T>(values[i]);
      result[i] = rank == 0 ? value : combined(result[i], value, op);
    }
  }
  return result;
}

template <class T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

template <class In, class T>
void reductions_keep_the_order(Channel& channel, const SharedTopology& topology,
                               Arithmetic arithmetic, int64_t count) {
  const int rank = channel.rank(), size = channel.size();
  const Call call{.kind = "test", .two_level = topology};
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    SCOPED_TRACE(fmt::format("{}, {} elements, operation {}", topology->to_text(), count, int(op)));
    const auto expected = reduced_by_hosts<In, T>(*topology, size * count, op);
    const auto slice = std::span(expected).subspan(rank * count, count);
    auto in = contribution<In>(rank, size * count);
    const auto before = in;
    std::vector<T> out(count, T(99));
    reduce_scatter(channel, call, arithmetic, std::as_bytes(std::span(in)),
                   std::as_writable_bytes(std::span(out)), op)
        ->wait();
    EXPECT_TRUE(same_bits<T>(out, slice));
    EXPECT_TRUE(same_bits<In>(in, before)) << "the input was written";
    if constexpr (std::is_same_v<In, T>) {
      const auto place = std::span(in).subspan(rank * count, count);
      reduce_scatter(channel, call, arithmetic, std::as_bytes(std::span(in)),
                     std::as_writable_bytes(place), op)
          ->wait();
      EXPECT_TRUE(same_bits<T>(place, slice)) << "in place";

      // Slices of another length, borders elsewhere: the same bits.
      const int64_t odd = std::max<int64_t>(0, size * count - 3);
      auto all = contribution<In>(rank, odd);
      all_reduce(channel, call, arithmetic, std::as_writable_bytes(std::span(all)), op)->wait();
      EXPECT_TRUE(same_bits<T>(all, reduced_by_hosts<In, T>(*topology, odd, op)));
    }
  }
}

inline void every_arithmetic_keeps_the_order(Channel& channel, const SharedTopology& topology) {
  for (const int64_t count : {0, 1, 2, 7, 64, 1001}) {
    reductions_keep_the_order<float, float>(channel, topology, Arithmetic::float32, count);
    reductions_keep_the_order<double, double>(channel, topology, Arithmetic::float64, count);
    reductions_keep_the_order<int64_t, int64_t>(channel, topology, Arithmetic::int64, count);
    reductions_keep_the_order<Bfloat16, float>(channel, topology, Arithmetic::bfloat16_to_float32,
                                               count);
  }
}

inline void gathers_everything(Channel& channel, const SharedTopology& topology) {
  const int rank = channel.rank(), size = channel.size();
  for (const size_t bytes : {0, 1, 5, 4096, 99'991}) {
    const auto of_rank = [&](int r) { return std::vector(bytes, std::byte(17 * r + 3)); };
    const auto expected = [&] {
      std::vector<std::byte> all;
      for (int r = 0; r < size; ++r) {
        const auto part = of_rank(r);
        all.insert(all.end(), part.begin(), part.end());
      }
      return all;
    }();
    const auto mine = of_rank(rank);
    std::vector<std::byte> all(bytes * size);
    all_gather(channel, {.kind = "test", .two_level = topology}, mine, all)->wait();
    EXPECT_EQ(all, expected);

    std::vector<std::byte> in_place(bytes * size);
    const auto place = std::span(in_place).subspan(rank * bytes, bytes);
    std::ranges::copy(mine, place.begin());
    all_gather(channel, {.kind = "test", .two_level = topology}, place, in_place)->wait();
    EXPECT_EQ(in_place, expected) << "in place";
  }
}

/// Slices of several times what is staged, borders inside chunks.
inline void large_ones_go_in_many_chunks(Channel& channel, const SharedTopology& topology,
                                         int64_t slice) {
  const int rank = channel.rank(), size = channel.size();
  const int64_t count = slice * size + 1;
  std::vector<float> values(count), expected(count);
  const auto value = [](int r, int64_t i) { return 0.1f * static_cast<float>((i + 31 * r) % 97); };
  for (int64_t i = 0; i < count; ++i) {
    values[i] = value(rank, i);
    for (int host = 0; host < topology->hosts(); ++host) {
      float of_host = 0;
      for (int local = 0; local < topology->ranks_per_host(); ++local) {
        const float one = value(topology->rank_at(host, local), i);
        of_host = local == 0 ? one : of_host + one;
      }
      expected[i] = host == 0 ? of_host : expected[i] + of_host;
    }
  }
  all_reduce(channel, {.kind = "test", .two_level = topology}, Arithmetic::float32,
             std::as_writable_bytes(std::span(values)), ReduceOp::sum)
      ->wait();
  EXPECT_TRUE(same_bits<float>(values, expected));
}

/// More than may be in flight, of all kinds, beside those of one level, waited for in another order
/// on each rank.
inline void many_at_once(Channel& channel, const SharedTopology& topology) {
  const int rank = channel.rank(), size = channel.size();
  struct Issued {
    std::vector<float> in, out, expected;
    Pending pending;
  };
  std::vector<Issued> issued(30);
  for (size_t i = 0; i < issued.size(); ++i) {
    Issued& it = issued[i];
    const int64_t count = 50 * static_cast<int64_t>(i % 7) + 1;
    const auto whole = reduced_by_hosts<float, float>(*topology, size * count, ReduceOp::sum);
    it.in = contribution<float>(rank, size * count);
    const auto in = std::as_writable_bytes(std::span(it.in));
    switch (i % 4) {
      case 0:
        it.out = it.in;
        it.expected = whole;
        it.pending =
            all_reduce(channel, {.kind = "sum", .two_level = topology}, Arithmetic::float32,
                       std::as_writable_bytes(std::span(it.out)), ReduceOp::sum);
        break;
      case 1:
        it.out.resize(count);
        it.expected.assign(whole.begin() + rank * count, whole.begin() + (rank + 1) * count);
        it.pending =
            reduce_scatter(channel, {.kind = "scatter", .two_level = topology}, Arithmetic::float32,
                           in, std::as_writable_bytes(std::span(it.out)), ReduceOp::sum);
        break;
      case 2:
        it.out.resize(it.in.size() * size);
        for (int r = 0; r < size; ++r) {
          const auto part = contribution<float>(r, size * count);
          it.expected.insert(it.expected.end(), part.begin(), part.end());
        }
        it.pending = all_gather(channel, {.kind = "gather", .two_level = topology}, in,
                                std::as_writable_bytes(std::span(it.out)));
        break;
      default:
        it.out = it.in;
        it.expected = reduced_in_one_level<float, float>(size, size * count, ReduceOp::sum);
        it.pending = all_reduce(channel, {.kind = "sum"}, Arithmetic::float32,
                                std::as_writable_bytes(std::span(it.out)), ReduceOp::sum);
    }
  }
  std::mt19937 order(rank);
  std::ranges::shuffle(issued, order);
  for (Issued& it : issued) {
    it.pending->wait();
    EXPECT_TRUE(same_bits<float>(it.out, it.expected));
  }
}

/// Counts what passes through another transport, by receiver.
class CountingTransport : public Transport {
 public:
  explicit CountingTransport(Transport& inner) : inner_(inner) {}

  void submit(std::shared_ptr<Operation> operation) override {
    inner_.submit(std::move(operation));
  }
  std::unique_ptr<Exchange> post(int tag, std::span<const Outgoing> outgoing,
                                 std::span<const Incoming> incoming) override {
    {
      const std::lock_guard lock(mutex_);
      for (const Outgoing& message : outgoing) {
        bytes_[message.to] += static_cast<int64_t>(message.bytes.size());
      }
    }
    return inner_.post(tag, outgoing, incoming);
  }
  int largest_tag() const override { return inner_.largest_tag(); }

  /// Sent since the last call, to ranks of other hosts.
  int64_t take_bytes_to_other_hosts(const Topology& topology, int rank) {
    const std::lock_guard lock(mutex_);
    int64_t sum = 0;
    for (const auto& [to, bytes] : std::exchange(bytes_, {})) {
      if (topology.host_of(to) != topology.host_of(rank)) sum += bytes;
    }
    return sum;
  }

 private:
  Transport& inner_;
  std::mutex mutex_;
  std::map<int, int64_t> bytes_;
};

/// What a host sends to others for a tensor of one byte: all_reduce in two levels 2 (H - 1) / H, in
/// one level as much for each of its ranks; the halves half of it.
inline void bytes_between_hosts_are_counted(const Communicator& world,
                                            const SharedTopology& topology) {
  const Communicator own = world.duplicate("counted");
  const auto counter = std::make_shared<CountingTransport>(own.channel().transport());
  const auto channel = std::make_shared<Channel>(counter, own.channel().number(),
                                                 own.channel().members(), own.rank(), "counted");
  const auto per_host = [&](const Pending& pending) {
    pending->wait();
    int64_t sent = counter->take_bytes_to_other_hosts(*topology, world.rank());
    std::vector<int64_t> of_host(topology->hosts());
    of_host[topology->host_of(world.rank())] = sent;
    world.all_reduce(of_host, ReduceOp::sum);
    for (const int64_t each : of_host) EXPECT_EQ(each, of_host[0]) << "hosts send unequally";
    return of_host[0];
  };
  const int size = world.size(), hosts = topology->hosts(), locals = topology->ranks_per_host();
  const int64_t count = 840 * size, bytes = count * int64_t{sizeof(float)};
  std::vector<float> values(count), part(count / size);
  const auto all = std::as_writable_bytes(std::span(values));
  const auto mine = std::as_writable_bytes(std::span(part));
  const Call flat{.kind = "test"}, call{.kind = "test", .two_level = topology};
  EXPECT_EQ(per_host(all_reduce(*channel, flat, Arithmetic::float32, all, ReduceOp::sum)) * hosts,
            2 * (hosts - 1) * locals * bytes);
  EXPECT_EQ(per_host(all_reduce(*channel, call, Arithmetic::float32, all, ReduceOp::sum)) * hosts,
            2 * (hosts - 1) * bytes);
  EXPECT_EQ(
      per_host(reduce_scatter(*channel, call, Arithmetic::float32, all, mine, ReduceOp::sum)) *
          hosts,
      (hosts - 1) * bytes);
  EXPECT_EQ(per_host(all_gather(*channel, call, mine, all)) * hosts, (hosts - 1) * bytes);
  // Contributions in bfloat16: half as much.
  const auto half = all.first(all.size() / 2);
  EXPECT_EQ(per_host(reduce_scatter(*channel, call, Arithmetic::bfloat16_to_float32, half, mine,
                                    ReduceOp::sum)) *
                hosts,
            (hosts - 1) * bytes / 2);
}

inline void run_all(const Communicator& world, const SharedTopology& topology) {
  Channel& channel = world.channel();
  every_arithmetic_keeps_the_order(channel, topology);
  gathers_everything(channel, topology);
  many_at_once(channel, topology);
  bytes_between_hosts_are_counted(world, topology);
}

}  // namespace trestle::dist::two_level_cases
