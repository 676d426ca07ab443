#include "formats/calibration.h"

#include "base/error.h"
#include "base/files.h"
#include "formats/strict_json.h"

#include <cmath>
#include <initializer_list>
#include <utility>

namespace trestle::formats {
namespace {

using nlohmann::json;
using Stored = nlohmann::ordered_json;

constexpr std::string_view kFormat = "trestle calibration";
constexpr std::int64_t kVersion = 1;
constexpr std::size_t kMaxDepth = 6;
constexpr std::uint64_t kLimitBytes = 16 << 20;
// Sums and products of what a file says stay whole numbers of 64 bits.
constexpr std::int64_t kMostCount = std::int64_t{1} << 53;

const json& member(const json& parent, const char* key, json::value_t type, const char* type_name) {
  const auto found = parent.find(key);
  if (found == parent.end()) throw JsonProblem(fmt::format("\"{}\" is missing", key));
  if (found->type() != type) throw JsonProblem(fmt::format("\"{}\" is not {}", key, type_name));
  return *found;
}

const json& object_at(const json& parent, const char* key) {
  return member(parent, key, json::value_t::object, "an object");
}
const json& list_at(const json& parent, const char* key) {
  return member(parent, key, json::value_t::array, "a list");
}
std::string text_at(const json& parent, const char* key) {
  return member(parent, key, json::value_t::string, "a text").get<std::string>();
}

std::int64_t count_at(const json& parent, const char* key, std::int64_t least) {
  const auto found = parent.find(key);
  if (found == parent.end()) throw JsonProblem(fmt::format("\"{}\" is missing", key));
  if (found->is_number_unsigned() && found->get<std::uint64_t>() <= std::uint64_t(kMostCount) &&
      found->get<std::int64_t>() >= least)
    return found->get<std::int64_t>();
  throw JsonProblem(fmt::format("\"{}\" is not a whole number of at least {}", key, least));
}

enum class Zero { allowed, refused };

/// Finite and not negative.
double number_at(const json& parent, const char* key, Zero zero) {
  const auto found = parent.find(key);
  if (found == parent.end()) throw JsonProblem(fmt::format("\"{}\" is missing", key));
  const double value = found->is_number() ? found->get<double>() : -1;
  if (std::isfinite(value) && (value > 0 || (value == 0 && zero == Zero::allowed))) return value;
  throw JsonProblem(fmt::format("\"{}\" is not a number {} 0", key,
                                zero == Zero::allowed ? "of at least" : "above"));
}

/// Everything in a list is an object.
const json& element(const json& value, const char* list) {
  if (!value.is_object()) throw JsonProblem(fmt::format("\"{}\" holds more than objects", list));
  return value;
}

Calibration::Cost parse_cost(const json& stored) {
  return {.latency_s = number_at(stored, "latency_s", Zero::allowed),
          .bytes_per_s = number_at(stored, "bytes_per_s", Zero::refused)};
}

Calibration::Operation parse_operation(const json& stored) {
  Calibration::Operation operation{parse_cost(stored)};
  for (const json& point : list_at(stored, "points")) {
    element(point, "points");
    operation.points.push_back({.bytes = count_at(point, "bytes", 0),
                                .median_s = number_at(point, "median_s", Zero::allowed)});
  }
  if (stored.contains("slow")) operation.slow = parse_cost(object_at(stored, "slow"));
  return operation;
}

Calibration::Compute parse_compute(const json& stored) {
  return {.task = text_at(stored, "task"),
          .parameters = count_at(stored, "parameters", 0),
          .micro_batch = count_at(stored, "micro_batch", 1),
          .checkpoint_every = count_at(stored, "checkpoint_every", 0),
          .sample_bytes = count_at(stored, "sample_bytes", 0),
          .forward_s_per_sample = number_at(stored, "forward_s_per_sample", Zero::allowed),
          .backward_s_per_sample = number_at(stored, "backward_s_per_sample", Zero::allowed),
          .optimizer_s_per_element = number_at(stored, "optimizer_s_per_element", Zero::allowed)};
}

Calibration parse(std::string_view text) {
  const json stored = parse_json_object(text, kMaxDepth);
  if (text_at(stored, "format") != kFormat)
    throw JsonProblem(fmt::format("its format is {}", shown(text_at(stored, "format"))));
  if (const auto version = count_at(stored, "version", 1); version != kVersion)
    throw JsonProblem(
        fmt::format("it has version {}, and this program reads {}", version, kVersion));
  Calibration calibration{.world = count_at(stored, "world", 1)};
  for (const json& host : list_at(stored, "hosts")) {
    element(host, "hosts");
    calibration.hosts.push_back(
        {.name = text_at(host, "name"), .ranks = count_at(host, "ranks", 1)});
  }
  if (stored.contains("levels")) {
    const std::int64_t levels = count_at(stored, "levels", 1);
    if (levels > 2) throw JsonProblem("\"levels\" is neither 1 nor 2");
    calibration.levels = static_cast<int>(levels);
  }
  if (stored.contains("computing_lost")) {
    calibration.computing_lost = number_at(stored, "computing_lost", Zero::allowed);
    if (calibration.computing_lost >= 1) throw JsonProblem("\"computing_lost\" is not below 1");
  }
  for (const auto& [name, operation] : object_at(stored, "operations").items()) {
    if (!operation.is_object())
      throw JsonProblem(fmt::format("operation {} is not an object", shown(name)));
    calibration.operations[name] = parse_operation(operation);
  }
  if (stored.contains("compute")) calibration.compute = parse_compute(object_at(stored, "compute"));
  return calibration;
}

Stored to_json(const Calibration::Cost& cost) {
  return {{"latency_s", cost.latency_s}, {"bytes_per_s", cost.bytes_per_s}};
}

Stored to_json(const Calibration::Operation& operation) {
  Stored stored = to_json(static_cast<const Calibration::Cost&>(operation));
  stored["points"] = Stored::array();
  for (const auto& [bytes, median_s] : operation.points)
    stored["points"].push_back({{"bytes", bytes}, {"median_s", median_s}});
  if (operation.slow) stored["slow"] = to_json(*operation.slow);
  return stored;
}

Stored to_json(const Calibration::Compute& compute) {
  return {{"task", compute.task},
          {"parameters", compute.parameters},
          {"micro_batch", compute.micro_batch},
          {"checkpoint_every", compute.checkpoint_every},
          {"sample_bytes", compute.sample_bytes},
          {"forward_s_per_sample", compute.forward_s_per_sample},
          {"backward_s_per_sample", compute.backward_s_per_sample},
          {"optimizer_s_per_element", compute.optimizer_s_per_element}};
}

}  // namespace

Calibration parse_calibration(std::string_view text, std::string_view name) {
  try {
    return parse(text);
  } catch (const JsonProblem& problem) {
    fail(ExitCode::data,
         "{} is no calibration ({}). Write one with trestle bench comm --save FILE.", name,
         problem.what());
  }
}

Calibration read_calibration(const std::filesystem::path& file) {
  return parse_calibration(read_text_file(file, kLimitBytes, ExitCode::data), file.string());
}

std::string to_text(const Calibration& calibration) {
  Stored hosts = Stored::array();
  for (const auto& [name, ranks] : calibration.hosts)
    hosts.push_back({{"name", name}, {"ranks", ranks}});
  Stored operations = Stored::object();
  for (const auto& [name, operation] : calibration.operations)
    operations[name] = to_json(operation);
  Stored stored = {{"format", kFormat},
                   {"version", kVersion},
                   {"world", calibration.world},
                   {"hosts", std::move(hosts)},
                   {"levels", calibration.levels},
                   {"computing_lost", calibration.computing_lost},
                   {"operations", std::move(operations)}};
  if (calibration.compute) stored["compute"] = to_json(*calibration.compute);
  return stored.dump(1) + "\n";
}

}  // namespace trestle::formats
