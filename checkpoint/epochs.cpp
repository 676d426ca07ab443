#include "checkpoint/epochs.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <limits>
#include <system_error>
#include <utility>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kFormat = "trestle-epochs";
constexpr std::int64_t kVersion = 1;
constexpr std::uint64_t kLimitBytes = 4 << 20;
constexpr std::size_t kMostStarts = 1000;
constexpr std::size_t kTextLimit = 2048;
constexpr std::string_view kAside = ".damaged";

struct Malformed {
  std::string problem;
};

const json& member(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end()) throw Malformed{fmt::format("field \"{}\" is missing", key)};
  return *found;
}

std::int64_t integer_at(const json& object, const char* key, std::int64_t least) {
  const json& value = member(object, key);
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() &&
                      value.get<std::uint64_t>() >
                          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
  if (!fits || value.get<std::int64_t>() < least)
    throw Malformed{fmt::format("\"{}\" is not an integer from {} on", key, least)};
  return value.get<std::int64_t>();
}

std::string text_at(const json& object, const char* key) {
  const json& value = member(object, key);
  const auto plain = [](const std::string& text) {
    return text.size() <= kTextLimit &&
           std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
  };
  if (!value.is_string() || !plain(value.get_ref<const std::string&>()))
    throw Malformed{fmt::format("\"{}\" is not a short printable text", key)};
  return value.get<std::string>();
}

std::vector<EpochStart> starts_from(json stored) {
  if (text_at(stored, "format") != kFormat) throw Malformed{"its format is another"};
  if (const auto version = integer_at(stored, "version", 0); version != kVersion)
    throw Malformed{fmt::format("it has version {}, and this program reads {}", version, kVersion)};
  const std::string digest = text_at(stored, "digest");
  stored.erase("digest");
  if (digest != digest_128(stored.dump())) throw Malformed{"it does not have its digest"};
  const json& list = member(stored, "epochs");
  if (!list.is_array()) throw Malformed{"\"epochs\" is not a list"};
  std::vector<EpochStart> starts;
  for (const json& entry : list) {
    EpochStart start{.epoch = integer_at(entry, "epoch", 1),
                     .holder = text_at(entry, "holder"),
                     .from_step = integer_at(entry, "from_step", -1)};
    if (!starts.empty() && start.epoch <= starts.back().epoch)
      throw Malformed{fmt::format("epoch {} follows epoch {}", start.epoch, starts.back().epoch)};
    starts.push_back(std::move(start));
  }
  return starts;
}

}  // namespace

std::string to_text(const std::vector<EpochStart>& starts) {
  json list = json::array();
  for (const EpochStart& start : starts)
    list.push_back(
        {{"epoch", start.epoch}, {"holder", start.holder}, {"from_step", start.from_step}});
  json stored = {{"format", kFormat}, {"version", kVersion}, {"epochs", std::move(list)}};
  stored["digest"] = digest_128(stored.dump());
  return stored.dump(1) + "\n";
}

Epochs parse_epochs(std::string_view text, const std::string& origin) {
  try {
    const auto refuse_depth = [](int depth, json::parse_event_t, json&) {
      if (depth > 4) throw Malformed{"it is nested too deep"};
      return true;
    };
    try {
      Epochs epochs;
      epochs.starts_ = starts_from(json::parse(text, refuse_depth));
      return epochs;
    } catch (const json::exception&) {
      throw Malformed{"it is not JSON"};
    }
  } catch (const Malformed& error) {
    fail(ExitCode::checkpoint, "{} is damaged ({}).", origin, error.problem);
  }
}

Epochs Epochs::read(const fs::path& checkpoints) {
  const fs::path file = checkpoints / kName;
  Epochs epochs;
  if (fs::exists(file)) {
    const std::string text = read_text_file(file, kLimitBytes, ExitCode::checkpoint);
    try {
      epochs = parse_epochs(text, file.string());
    } catch (const Error& error) {
      epochs.damaged_ = true;
      log_warn(
          "{} Nothing tells the checkpoints of a run that was taken over from the others now: the "
          "newest whole one counts. The next start of training makes a new file and keeps this one "
          "as {}{}.",
          error.what(), kName, kAside);
    }
  }
  epochs.file_ = file;
  return epochs;
}

bool Epochs::superseded(std::int64_t epoch, std::int64_t step) const {
  return std::ranges::any_of(starts_, [&](const EpochStart& later) {
    return later.epoch > epoch && later.from_step < step;
  });
}

void Epochs::record(const EpochStart& start) {
  TRESTLE_ASSERT(start.epoch > last(), "epoch {} is recorded after epoch {}", start.epoch, last());
  starts_.push_back(start);
  forget();
  if (std::exchange(damaged_, false)) {
    fs::path aside = file_;
    aside += kAside;
    std::error_code ignored;
    fs::rename(file_, aside, ignored);
  }
  write_file_atomic(file_, to_text(starts_), ExitCode::checkpoint);
}

/// Bounds the list. Where a later epoch went on from the same step or an earlier one, it judges
/// whatever this one would; those go first, and no answer changes.
void Epochs::forget() {
  if (starts_.size() <= kMostStarts) return;
  std::vector<EpochStart> needed;
  for (const EpochStart& start : starts_) {
    while (!needed.empty() && needed.back().from_step >= start.from_step) needed.pop_back();
    needed.push_back(start);
  }
  if (needed.size() > kMostStarts)
    needed.erase(needed.begin(), needed.end() - static_cast<std::ptrdiff_t>(kMostStarts));
  starts_ = std::move(needed);
}

}  // namespace trestle::checkpoint
