#include "data/sampler.h"

#include "base/error.h"
#include "base/philox.h"

#include <algorithm>
#include <bit>

namespace trestle::data {
namespace {

constexpr int kRounds = 6;
constexpr std::uint32_t kPurpose = Purpose("data.permutation").id;

// A Feistel network is a permutation of 2 * half_bits bits whatever its round function is.
std::uint64_t permute_bits(std::uint64_t value, int half_bits, std::uint64_t seed,
                           std::uint64_t epoch) {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  std::uint64_t left = value >> half_bits, right = value & mask;
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    const PhiloxCounter mixed =
        philox4x32({{static_cast<std::uint32_t>(right), static_cast<std::uint32_t>(epoch),
                     static_cast<std::uint32_t>(epoch >> 32) ^ (round << 24), kPurpose}},
                   {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}});
    const std::uint64_t next = left ^ (mixed.word[0] & mask);
    left = right;
    right = next;
  }
  return (left << half_bits) | right;
}

}  // namespace

Sampler::Sampler(std::uint64_t seed, std::int64_t size) : seed_(seed), size_(size) {
  TRESTLE_REQUIRE_AS(data, size >= 1 && size < (std::int64_t{1} << 62),
                     "the data set has {} samples (a run needs at least one). Add samples.", size);
  const int bits = std::bit_width(static_cast<std::uint64_t>(size - 1));
  half_bits_ = std::max(1, (bits + 1) / 2);
}

SampleId Sampler::at(Position position, std::int64_t skip) const {
  TRESTLE_ASSERT(position.value >= 0 && skip >= 0 && skip < size_, "position {}, skip {}",
                 position.value, skip);
  const auto epoch = static_cast<std::uint64_t>(position.value / size_);
  auto value = static_cast<std::uint64_t>((position.value + skip) % size_);
  // Walking the cycle until it re-enters [0, size) restricts the permutation to the data set; the
  // domain is less than four times too large (16 for tiny sets), so this takes a few turns.
  do {
    value = permute_bits(value, half_bits_, seed_, epoch);
  } while (value >= static_cast<std::uint64_t>(size_));
  return static_cast<SampleId>(value);
}

BatchPlan::BatchPlan(std::int64_t global_batch, std::int64_t micro_batch, int rank, int world)
    : global_batch_(global_batch),
      micro_batch_(micro_batch),
      begin_(global_batch * rank / world),
      end_(global_batch * (rank + 1) / world) {
  TRESTLE_ASSERT(micro_batch >= 1 && global_batch >= world && rank >= 0 && rank < world,
                 "global batch {}, micro batch {}, rank {} of {}", global_batch, micro_batch, rank,
                 world);
  const std::int64_t most = (global_batch + world - 1) / world;
  micro_steps_ = (most + micro_batch - 1) / micro_batch;
}

std::vector<Position> BatchPlan::micro_batch(Step step, std::int64_t micro_step) const {
  const std::int64_t first = step.value * global_batch_;
  const std::int64_t begin = std::min(end_, begin_ + micro_step * micro_batch_);
  const std::int64_t end = std::min(end_, begin + micro_batch_);
  std::vector<Position> positions;
  for (std::int64_t place = begin; place < end; ++place) positions.push_back({first + place});
  return positions;
}

std::vector<Position> BatchPlan::global_batch(Step step) const {
  std::vector<Position> positions;
  for (std::int64_t place = 0; place < global_batch_; ++place) {
    positions.push_back({step.value * global_batch_ + place});
  }
  return positions;
}

}  // namespace trestle::data
