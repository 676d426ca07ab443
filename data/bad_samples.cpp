#include "data/bad_samples.h"

#include "base/error.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

namespace trestle::data {
namespace {

constexpr std::size_t kReasonsShown = 5;

void append_number(std::string& bytes, std::int64_t number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
}

std::int64_t take_number(std::string_view& bytes) {
  std::int64_t number = 0;
  std::memcpy(&number, bytes.data(), sizeof number);
  bytes.remove_prefix(sizeof number);
  return number;
}

std::string to_bytes(const BadReasons& bad) {
  std::string bytes;
  for (const auto& [id, reason] : bad) {
    append_number(bytes, id);
    append_number(bytes, std::ssize(reason));
    bytes += reason;
  }
  return bytes;
}

/// Adds what to_bytes() made of another rank's samples; of two reasons for one the first stays.
void add_from_bytes(BadReasons& bad, std::string_view bytes) {
  while (!bytes.empty()) {
    const SampleId id = take_number(bytes);
    const auto size = static_cast<std::size_t>(take_number(bytes));
    bad.emplace(id, bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
}

}  // namespace

std::string first_reasons(const BadReasons& bad) {
  std::string text;
  std::size_t shown = 0;
  for (const auto& [id, reason] : bad) {
    if (reason.empty() || shown == kReasonsShown) continue;
    text += "\n  " + reason;
    ++shown;
  }
  if (shown < bad.size()) text += fmt::format("\n  and {} more", bad.size() - shown);
  return text;
}

std::string too_many_bad(const BadReasons& bad, std::int64_t max_bad) {
  return fmt::format(
      "{} samples cannot be used (data.max_bad = {} may be replaced). Repair them, take them off "
      "the list, or raise data.max_bad; `trestle validate` lists all.{}",
      bad.size(), max_bad, first_reasons(bad));
}

void BadSamples::note(std::span<const Replacement> replaced) {
  for (const auto& each : replaced) {
    if (!known_.contains(each.bad)) fresh_.emplace(each.bad, each.reason);
  }
}

std::vector<std::string> BadSamples::merge(const dist::Communicator& world, bool news) {
  if (!news) return {};
  BadReasons fresh;
  for (const auto& bytes : world.all_gather_bytes(to_bytes(fresh_))) add_from_bytes(fresh, bytes);
  fresh_.clear();
  std::vector<std::string> lines;
  for (const auto& [id, reason] : fresh) {
    known_.emplace(id, reason);
    lines.push_back(fmt::format("{} (A readable sample takes its place: {} of {} by data.max_bad.)",
                                reason, count(), max_bad_));
  }
  // Every rank is here with the same set, so all may leave in order.
  if (count() > max_bad_) throw dist::AgreedError(ExitCode::data, too_many_bad(known_, max_bad_));
  return lines;
}

std::string BadSamples::to_text() const {
  std::string text;
  for (const auto& [id, reason] : known_) {
    if (!text.empty()) text += ' ';
    text += std::to_string(id);
  }
  return text;
}

void BadSamples::restore(std::string_view text) {
  known_.clear();
  fresh_.clear();
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    SampleId id = -1;
    const auto [next, error] = std::from_chars(at, end, id);
    TRESTLE_REQUIRE_AS(checkpoint, error == std::errc() && id >= 0 && (next == end || *next == ' '),
                       "the checkpoint's list of bad samples is \"{}\" (it must be numbers with "
                       "spaces between). Resume from another checkpoint.",
                       text);
    known_.emplace(id, "");
    at = next == end ? end : next + 1;
  }
}

}  // namespace trestle::data
