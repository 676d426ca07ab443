#include "trainers/tally.h"

#include <algorithm>
#include <bit>
#include <span>

namespace trestle::trainers {
namespace {

void append(std::vector<std::int64_t>& words, std::span<const double> numbers) {
  for (const double number : numbers) words.push_back(std::bit_cast<std::int64_t>(number));
}

std::vector<double> as_doubles(std::span<const std::int64_t> words) {
  std::vector<double> numbers;
  for (const std::int64_t word : words) numbers.push_back(std::bit_cast<double>(word));
  return numbers;
}

}  // namespace

void Tally::sum_over(const dist::Communicator& world, const MetricNames& names) {
  const std::array sums{squares.words(), loss.words(), std::span<std::int64_t>(flags)};
  std::vector<std::int64_t> mine;
  for (const auto part : sums) mine.insert(mine.end(), part.begin(), part.end());
  append(mine, metrics);
  const std::vector<std::int64_t> all = world.all_gather(mine);
  std::vector<double> numbers;
  for (const auto part : sums) std::ranges::fill(part, 0);
  for (std::span<const std::int64_t> rest = all; !rest.empty();) {
    for (const auto part : sums) {
      for (std::size_t i = 0; i < part.size(); ++i) part[i] += rest[i];
      rest = rest.subspan(part.size());
    }
    const auto theirs = as_doubles(rest.first(metrics.size()));
    numbers.insert(numbers.end(), theirs.begin(), theirs.end());
    rest = rest.subspan(metrics.size());
  }
  metrics = names.merged(numbers);
}

std::vector<double> merge_metrics(const dist::Communicator& world, const Metrics& mine,
                                  MetricNames& names) {
  for (const std::string& text : world.all_gather_bytes(mine.names().to_text()))
    names.add(MetricNames::of_text(text));
  std::vector<std::int64_t> words;
  append(words, mine.numbers(names));
  return names.merged(as_doubles(world.all_gather(words)));
}

}  // namespace trestle::trainers
