#include "trainers/task_metrics.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace trestle::trainers {
namespace {

using Kind = MetricNames::Kind;
using Shape = MetricNames::Shape;

constexpr double kLeast = -std::numeric_limits<double>::infinity();

std::size_t size_of(const Shape& shape) {
  return shape.kind == Kind::max ? 1 : 2 * static_cast<std::size_t>(shape.bins);
}

at::Tensor doubles(const at::Tensor& values) { return values.detach().to(at::kDouble).flatten(); }

at::Tensor merge(const Shape& shape, const at::Tensor& a, const at::Tensor& b) {
  return shape.kind == Kind::max ? at::maximum(a, b) : a + b;
}

}  // namespace

void MetricNames::add(std::string_view name, const Shape& shape) {
  TRESTLE_ASSERT(!name.empty() && name.find_first_of(" \n\"\\") == name.npos,
                 "\"{}\" cannot name a metric", name);
  const auto [found, is_new] = shapes_.try_emplace(std::string(name), shape);
  TRESTLE_ASSERT(is_new || found->second == shape, "metric {} is reported in two ways", name);
}

void MetricNames::add(const MetricNames& other) {
  for (const auto& [name, shape] : other.shapes_) add(name, shape);
}

bool MetricNames::contains(const MetricNames& other) const {
  return std::ranges::all_of(other.shapes_, [&](const auto& entry) {
    const auto found = shapes_.find(entry.first);
    return found != shapes_.end() && found->second == entry.second;
  });
}

std::string MetricNames::to_text() const {
  std::string text;
  for (const auto& [name, shape] : shapes_)
    text += fmt::format("{} {} {}\n", name, static_cast<int>(shape.kind), shape.bins);
  return text;
}

MetricNames MetricNames::of_text(const std::string& text) {
  MetricNames names;
  std::istringstream in(text);
  std::string name;
  int kind = 0;
  std::int64_t bins = 0;
  while (in >> name >> kind >> bins)
    names.add(name, {.kind = static_cast<Kind>(kind), .bins = bins});
  return names;
}

std::size_t MetricNames::size() const {
  std::size_t size = 0;
  for (const auto& [name, shape] : shapes_) size += size_of(shape);
  return size;
}

std::vector<double> MetricNames::merged(std::span<const double> of_ranks) const {
  const std::size_t each = size();
  std::vector<double> all(of_ranks.begin(), of_ranks.begin() + static_cast<std::ptrdiff_t>(each));
  for (std::size_t first = each; first < of_ranks.size(); first += each) {
    std::size_t i = 0;
    for (const auto& [name, shape] : shapes_) {
      for (const std::size_t end = i + size_of(shape); i < end; ++i) {
        const double other = of_ranks[first + i];
        if (shape.kind != Kind::max)
          all[i] += other;
        else if (other > all[i] || std::isnan(other))
          all[i] = other;
      }
    }
  }
  return all;
}

std::map<std::string, double> MetricNames::values(std::span<const double> numbers) const {
  std::map<std::string, double> values;
  for (const auto& [name, shape] : shapes_) {
    const auto mine = numbers.first(size_of(shape));
    numbers = numbers.subspan(mine.size());
    if (shape.kind == Kind::max) {
      if (mine[0] != kLeast) values[name] = mine[0];
      continue;
    }
    const auto bins = static_cast<std::size_t>(shape.bins);
    for (std::size_t bin = 0; bin < bins; ++bin) {
      const double sum = mine[bin], count = mine[bins + bin];
      if (count > 0)
        values[shape.kind == Kind::mean ? name : fmt::format("{}/{}", name, bin)] = sum / count;
    }
  }
  return values;
}

void Metrics::put(std::string_view name, const Shape& shape, const at::Tensor& numbers) {
  TRESTLE_ASSERT(!numbers_.contains(name), "metric {} is reported twice", name);
  names_.add(name, shape);
  numbers_.emplace(name, numbers);
}

void Metrics::mean(std::string_view name, const at::Tensor& values) {
  const at::Tensor sum = doubles(values).sum();
  put(name, {.kind = Kind::mean}, at::stack({sum, at::full_like(sum, double(values.numel()))}));
}

void Metrics::max(std::string_view name, const at::Tensor& values) {
  if (values.numel() > 0) put(name, {.kind = Kind::max}, doubles(values).amax().view({1}));
}

void Metrics::binned(std::string_view name, const at::Tensor& values, const at::Tensor& bins,
                     std::int64_t count) {
  TRESTLE_ASSERT(count > 0 && bins.numel() == values.numel(),
                 "metric {}: {} values in {} bins, of which {} say which", name, values.numel(),
                 count, bins.numel());
  const at::Tensor places = bins.detach().flatten().to(at::kLong).clamp(0, count - 1);
  const at::Tensor mine = doubles(values);
  const at::Tensor zeros = at::zeros({count}, mine.options());
  put(name, {.kind = Kind::binned, .bins = count},
      at::cat({zeros.index_add(0, places, mine), zeros.index_add(0, places, at::ones_like(mine))}));
}

void Metrics::add(const Metrics& other) {
  for (const auto& [name, shape] : other.names_.shapes()) {
    const at::Tensor& theirs = other.numbers_.find(name)->second;
    names_.add(name, shape);
    const auto [mine, is_new] = numbers_.try_emplace(name, theirs);
    if (!is_new) mine->second = merge(shape, mine->second, theirs);
  }
}

std::vector<double> Metrics::numbers(const MetricNames& names) const {
  std::vector<double> numbers;
  numbers.reserve(names.size());
  for (const auto& [name, shape] : names.shapes()) {
    const auto found = numbers_.find(name);
    if (found == numbers_.end()) {
      numbers.insert(numbers.end(), size_of(shape), shape.kind == Kind::max ? kLeast : 0.0);
      continue;
    }
    const at::Tensor here = found->second.cpu().contiguous();
    const double* first = here.const_data_ptr<double>();
    numbers.insert(numbers.end(), first, first + here.numel());
  }
  return numbers;
}

}  // namespace trestle::trainers
