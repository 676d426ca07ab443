// Numbers that a task wants to see of each step besides its losses. They go over all samples of the
// global batch, on all ranks, and end in metrics.jsonl and TensorBoard under the names given here.
//
//   Metrics metrics;
//   metrics.mean("prompt_length", length_b);               // over samples
//   metrics.max("latent_size", latents_bchw.abs());        // over all elements
//   metrics.binned("loss_by_time", loss_b, (time_b * 4).floor(), 4);    // a mean for each bin
//   return {.terms = ..., .metrics = std::move(metrics)};
//
// Graphs do not pass through: values are detached. A name is used once in a report, and in one way
// for ever. Ranks need not report the same names. STREAM: the current one; numbers are read from a
// device once an objective and step, not where they are reported.
// LOCAL, all of it. THREADS: one.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::trainers {

/// Which numbers there are: what ranks have to agree on before they can add them.
class MetricNames {
 public:
  enum class Kind { mean, max, binned };
  struct Shape {
    Kind kind = Kind::mean;
    std::int64_t bins = 1;
    bool operator==(const Shape&) const = default;
  };

  /// A name that is there already in another shape is an assertion.
  void add(std::string_view name, const Shape& shape);
  void add(const MetricNames& other);
  bool contains(const MetricNames& other) const;

  std::string to_text() const;
  static MetricNames of_text(const std::string& text);

  const std::map<std::string, Shape, std::less<>>& shapes() const { return shapes_; }
  /// How many numbers stand for them.
  std::size_t size() const;
  /// Numbers of several ranks, size() each, made into one's.
  std::vector<double> merged(std::span<const double> of_ranks) const;
  /// What merged() numbers mean; "name/3" is the mean of bin 3. Means of nothing are left out.
  std::map<std::string, double> values(std::span<const double> numbers) const;

 private:
  std::map<std::string, Shape, std::less<>> shapes_;
};

class Metrics {
 public:
  void mean(std::string_view name, const at::Tensor& values);
  void max(std::string_view name, const at::Tensor& values);
  /// `bins`: of each value, a whole number; those below 0 count as 0, those above as the last.
  void binned(std::string_view name, const at::Tensor& values, const at::Tensor& bins,
              std::int64_t count);

  /// Another micro batch's.
  void add(const Metrics& other);
  const MetricNames& names() const { return names_; }
  /// As many as `names` has, which contains names(); those that are not here count nothing.
  std::vector<double> numbers(const MetricNames& names) const;

 private:
  void put(std::string_view name, const MetricNames::Shape& shape, const at::Tensor& numbers);

  MetricNames names_;
  /// [2 bins]: sums, then counts; of a maximum [1]. fp64.
  std::map<std::string, at::Tensor, std::less<>> numbers_;
};

}  // namespace trestle::trainers
