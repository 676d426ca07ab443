#include "dist/comm_benchmark.h"

#include "base/clock.h"
#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <vector>

namespace trestle::dist {
namespace {

constexpr double kRoundSeconds = 0.01;
constexpr double kMostRepetitions = 200;
constexpr int kRoot = 0;
constexpr std::int64_t kPeriod = 1009;  // prime, so that no displaced block looks right

/// Rank r brings pattern(i) + r at element i. Sums over thousands of ranks stay whole numbers that
/// float32 holds exactly.
std::int64_t pattern(std::int64_t i) { return i % kPeriod; }

void fill(at::Tensor& tensor, std::int64_t first, int rank) {
  float* values = tensor.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) values[i] = float(pattern(first + i) + rank);
}

/// One operation on its test data.
class Exercise {
 public:
  Exercise(Collectives& collectives, CommOperation operation, std::int64_t bytes)
      : collectives_(collectives), operation_(operation) {
    const std::int64_t ranks = communicator().size();
    each_ = std::max<std::int64_t>(1, bytes / std::int64_t{sizeof(float)} / ranks);
    whole_ = at::empty({each_ * ranks}, at::kFloat);
    part_ = at::empty({each_}, at::kFloat);
  }

  std::int64_t bytes() const { return static_cast<std::int64_t>(whole_.nbytes()); }

  void prepare() {
    const int rank = communicator().rank();
    if (operation_ == CommOperation::all_gather) {
      fill(part_, rank * each_, rank);
      whole_.fill_(-1);
    } else {
      fill(whole_, 0, rank);
      part_.fill_(-1);
    }
  }

  void run() { start().wait(); }
  Work start() {
    switch (operation_) {
      case CommOperation::all_reduce:
        return collectives_.all_reduce(whole_, ReduceOp::sum);
      case CommOperation::reduce_scatter:
        return collectives_.reduce_scatter(whole_, part_, ReduceOp::sum);
      case CommOperation::all_gather:
        return collectives_.all_gather(part_, whole_);
      case CommOperation::broadcast:
        return collectives_.broadcast(whole_, kRoot);
    }
    TRESTLE_ASSERT(false, "unknown operation");
    return {};
  }

  void check() const {
    const at::Tensor& result = operation_ == CommOperation::reduce_scatter ? part_ : whole_;
    const std::string wrong =
        wrong_data(operation_, result, communicator().rank(), communicator().size());
    TRESTLE_REQUIRE_AS(
        environment, wrong.empty(),
        "{} of {} bytes: {} (the data was changed on its way). Do not train on these nodes; look "
        "for a faulty host or network card by leaving out one host at a time.",
        name_of(operation_), bytes(), wrong);
  }

  const Communicator& communicator() const { return collectives_.communicator(); }

 private:
  Collectives& collectives_;
  CommOperation operation_;
  std::int64_t each_;
  at::Tensor whole_, part_;
};

using Clock = std::chrono::steady_clock;

/// Work like that of a layer, about half a millisecond on a core.
class Computing {
 public:
  void run() { output_ = at::silu(at::mm(rows_, weight_)); }

 private:
  at::Tensor rows_ = at::ones({64, 512}, at::kFloat), weight_ = at::ones({512, 512}, at::kFloat);
  at::Tensor output_;
};

/// Rounds of computing a second, for about `seconds`.
double computing_speed(Computing& computing, double seconds) {
  const auto started = Clock::now();
  double rounds = 0;
  for (; seconds_since(started) < seconds; ++rounds) computing.run();
  return rounds / seconds_since(started);
}

/// The same while calls are under way, two of them at any time. As many calls on every rank.
double computing_speed(Computing& computing, std::span<Exercise> exercises, int calls) {
  std::deque<Work> under_way;
  const auto started = Clock::now();
  double rounds = 0;
  for (int started_calls = 0; started_calls < calls || !under_way.empty(); ++rounds) {
    while (started_calls < calls && under_way.size() < exercises.size()) {
      const auto next = static_cast<std::size_t>(started_calls++) % exercises.size();
      under_way.push_back(exercises[next].start());
    }
    computing.run();
    while (!under_way.empty() && under_way.front().test()) under_way.pop_front();
  }
  return rounds / seconds_since(started);
}

/// Seconds a call, the slowest rank's.
double timed(Exercise& exercise, int repetitions) {
  exercise.prepare();
  exercise.communicator().barrier();
  const auto started = Clock::now();
  for (int i = 0; i < repetitions; ++i) exercise.run();
  double seconds = seconds_since(started) / repetitions;
  exercise.communicator().all_reduce(std::span(&seconds, 1), ReduceOp::max);
  return seconds;
}

}  // namespace

std::string_view name_of(CommOperation operation) {
  switch (operation) {
    case CommOperation::all_reduce:
      return "all_reduce";
    case CommOperation::reduce_scatter:
      return "reduce_scatter";
    case CommOperation::all_gather:
      return "all_gather";
    case CommOperation::broadcast:
      return "broadcast";
  }
  TRESTLE_ASSERT(false, "unknown operation");
  return {};
}

double CommTiming::bus_bandwidth() const {
  const double others = double(ranks - 1) / double(ranks);
  switch (operation) {
    case CommOperation::all_reduce:
      return 2 * others * algorithm_bandwidth();
    case CommOperation::reduce_scatter:
    case CommOperation::all_gather:
      return others * algorithm_bandwidth();
    case CommOperation::broadcast:
      return algorithm_bandwidth();
  }
  TRESTLE_ASSERT(false, "unknown operation");
  return 0;
}

CommTiming time_collective(Collectives& collectives, CommOperation operation, std::int64_t bytes,
                           const CommRounds& rounds) {
  TRESTLE_ASSERT(rounds.warm_up >= 1 && rounds.rounds >= 1, "{} and {} rounds", rounds.warm_up,
                 rounds.rounds);
  Exercise exercise(collectives, operation, bytes);
  double estimate = 0;
  for (int i = 0; i < rounds.warm_up; ++i) {
    estimate = timed(exercise, /*repetitions=*/1);
    exercise.communicator().agreed([&] { exercise.check(); });
  }
  // The same on every rank, because the estimate is.
  const int repetitions =
      static_cast<int>(std::clamp(kRoundSeconds / std::max(estimate, 1e-9), 1.0, kMostRepetitions));
  std::vector<double> seconds;
  for (int i = 0; i < rounds.rounds; ++i) seconds.push_back(timed(exercise, repetitions));
  const auto [fastest, slowest] = std::ranges::minmax(seconds);
  return {.operation = operation,
          .ranks = exercise.communicator().size(),
          .bytes = exercise.bytes(),
          .median_s = median(seconds),
          .fastest_s = fastest,
          .slowest_s = slowest,
          .modes = modes(seconds)};
}

double computing_lost(Collectives& collectives, std::int64_t bytes, int rounds) {
  const Communicator& world = collectives.communicator();
  if (world.size() == 1) return 0;
  constexpr double kSeconds = 0.15;
  constexpr double kMostCalls = 500;
  std::array exercises{Exercise(collectives, CommOperation::reduce_scatter, bytes),
                       Exercise(collectives, CommOperation::all_gather, bytes)};
  double call_s = 0;
  for (Exercise& exercise : exercises) call_s += timed(exercise, /*repetitions=*/2) / 2;
  const int calls =
      static_cast<int>(std::clamp(kSeconds / std::max(call_s, 1e-9), 4.0, kMostCalls));
  Computing computing;
  std::vector<double> lost;
  for (int i = 0; i < rounds; ++i) {
    world.barrier();
    const double alone = computing_speed(computing, kSeconds);
    world.barrier();
    lost.push_back(1 - computing_speed(computing, exercises, calls) / alone);
  }
  double slowest = std::clamp(median(lost), 0.0, 0.99);
  world.all_reduce(std::span(&slowest, 1), ReduceOp::max);
  return slowest;
}

std::string wrong_data(CommOperation operation, const at::Tensor& result, int rank, int ranks) {
  const bool is_part = operation == CommOperation::reduce_scatter;
  const std::int64_t each = is_part ? result.numel() : result.numel() / ranks;
  const std::int64_t first = is_part ? rank * each : 0;
  const float* values = result.const_data_ptr<float>();
  for (std::int64_t i = 0; i < result.numel(); ++i) {
    const std::int64_t at = first + i, n = ranks;
    const std::int64_t right = operation == CommOperation::all_gather ? pattern(at) + at / each
                               : operation == CommOperation::broadcast
                                   ? pattern(at) + kRoot
                                   : n * pattern(at) + n * (n - 1) / 2;
    if (values[i] != float(right)) {
      return fmt::format("element {} of rank {} is {} and should be {}", i, rank, values[i], right);
    }
  }
  return {};
}

CommCost fit_cost(std::span<const CommTiming> timings, bool slow) {
  TRESTLE_ASSERT(!timings.empty(), "nothing to fit");
  // Minimises the sum of (a u + b v - 1)^2 with u = 1 / time and v = bytes / time.
  double uu = 0, uv = 0, vv = 0, u_sum = 0, v_sum = 0;
  for (const auto& timing : timings) {
    const double time_s =
        slow && timing.modes.size() == 2 ? timing.modes[1].median : timing.median_s;
    const double u = 1 / time_s, v = double(timing.bytes) / time_s;
    uu += u * u, uv += u * v, vv += v * v, u_sum += u, v_sum += v;
  }
  const double determinant = uu * vv - uv * uv;
  double latency = 0, per_byte = v_sum / vv;
  if (determinant > 1e-12 * uu * vv) {
    const double a = (u_sum * vv - v_sum * uv) / determinant;
    const double b = (v_sum * uu - u_sum * uv) / determinant;
    if (a > 0 && b > 0) latency = a, per_byte = b;
  }
  return {.latency_s = latency, .bytes_per_s = 1 / per_byte};
}

}  // namespace trestle::dist
