#include "checkpoint/lease_record.h"

#include "base/digest.h"
#include "base/error.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <limits>

namespace trestle::checkpoint {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "trestle-lease";
constexpr std::int64_t kVersion = 1;
constexpr std::size_t kPadding = 1024;  // texts are as long as a multiple of this
constexpr std::int64_t kMostEpochs = 1'000'000'000'000;

/// What is wrong with a text, without its name; parse_lease() adds that.
struct Malformed {
  std::string problem;
};

const json& member(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end()) throw Malformed{fmt::format("field \"{}\" is missing", key)};
  return *found;
}

std::int64_t number_at(const json& object, const char* key) {
  const json& value = member(object, key);
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMost)
    throw Malformed{fmt::format("\"{}\" is not a number from 0 to 2^63 - 1", key)};
  return value.get<std::int64_t>();
}

/// Texts go into messages, so they are printable.
std::string text_at(const json& object, const char* key) {
  const json& value = member(object, key);
  if (!value.is_string()) throw Malformed{fmt::format("\"{}\" is not a text", key)};
  const auto& text = value.get_ref<const std::string&>();
  const bool plain = std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
  if (!plain || text.size() > kLeaseTextLimit)
    throw Malformed{fmt::format("\"{}\" is not a short printable text", key)};
  return text;
}

bool flag_at(const json& object, const char* key) {
  const json& value = member(object, key);
  if (!value.is_boolean()) throw Malformed{fmt::format("\"{}\" is neither true nor false", key)};
  return value.get<bool>();
}

json to_json(const LeaseRecord& record) {
  const LeaseHolder& holder = record.holder;
  return {{"format", kFormat},
          {"version", kVersion},
          {"epoch", record.epoch},
          {"holder",
           {{"host", holder.host},
            {"boot_id", holder.boot_id},
            {"pid_space", holder.pid_space},
            {"pid", holder.pid},
            {"started_ticks", holder.started_ticks},
            {"cluster", holder.cluster},
            {"job", holder.job},
            {"restart", holder.restart},
            {"world", holder.world}}},
          {"taken", record.taken},
          {"beats", record.beats},
          {"beaten", record.beaten},
          {"ended", record.ended}};
}

LeaseRecord from_json(json stored) {
  if (text_at(stored, "format") != kFormat) throw Malformed{"its format is another"};
  if (const auto version = number_at(stored, "version"); version != kVersion)
    throw Malformed{fmt::format("it has version {}, and this program reads {}", version, kVersion)};
  const std::string digest = text_at(stored, "digest");
  stored.erase("digest");
  if (digest != digest_128(stored.dump())) throw Malformed{"it does not have its digest"};

  LeaseRecord record;
  record.epoch = number_at(stored, "epoch");
  if (record.epoch < 1 || record.epoch > kMostEpochs)
    throw Malformed{fmt::format("\"epoch\" is {}", record.epoch)};
  const json& holder = member(stored, "holder");
  record.holder.host = text_at(holder, "host");
  record.holder.boot_id = text_at(holder, "boot_id");
  record.holder.pid_space = text_at(holder, "pid_space");
  record.holder.pid = number_at(holder, "pid");
  record.holder.started_ticks = number_at(holder, "started_ticks");
  record.holder.cluster = text_at(holder, "cluster");
  record.holder.job = text_at(holder, "job");
  record.holder.restart = number_at(holder, "restart");
  record.holder.world =
      static_cast<int>(std::min<std::int64_t>(number_at(holder, "world"), 1 << 24));
  record.taken = text_at(stored, "taken");
  record.beats = number_at(stored, "beats");
  record.beaten = text_at(stored, "beaten");
  record.ended = flag_at(stored, "ended");
  return record;
}

}  // namespace

std::string LeaseHolder::to_text() const {
  std::string text = fmt::format("host {}, pid {}", host, pid);
  if (!job.empty()) text += fmt::format(", Slurm job {} (restart {})", job, restart);
  return text + fmt::format(", {} rank{}", world, world == 1 ? "" : "s");
}

std::string LeaseRecord::to_text() const {
  return fmt::format("{}, since {}", holder.to_text(), taken);
}

std::string to_text(const LeaseRecord& record) {
  json stored = to_json(record);
  stored["digest"] = digest_128(stored.dump());
  std::string text = stored.dump(1);
  // More digits of a later beat fit, too.
  const std::size_t size = (text.size() + 64 + kPadding - 1) / kPadding * kPadding;
  text.resize(size - 1, ' ');
  return text + "\n";
}

LeaseRecord parse_lease(std::string_view text, const std::string& origin) {
  try {
    // The file is flat; a deep one would recurse in the parser's destructor.
    const auto refuse_depth = [](int depth, json::parse_event_t, json&) {
      if (depth > 4) throw Malformed{"it is nested too deep"};
      return true;
    };
    json stored;
    try {
      stored = json::parse(text, refuse_depth);
      return from_json(std::move(stored));
    } catch (const json::exception&) {
      throw Malformed{"it is not JSON"};
    }
  } catch (const Malformed& error) {
    fail(ExitCode::environment,
         "{} is damaged ({}). It may be deleted while no run uses its folder.", origin,
         error.problem);
  }
}

Standing judge(const LeaseRecord& record, const LeaseHolder& me, const ProcessLook& look) {
  if (record.ended) return Standing::ended;
  const LeaseHolder& holder = record.holder;
  const bool same_system =
      holder.host == me.host && holder.boot_id == me.boot_id && holder.pid_space == me.pid_space;
  if (same_system && !me.boot_id.empty() && !me.pid_space.empty()) {
    const auto started = look(holder.pid);
    if (!started || (*started >= 0 && *started != holder.started_ticks)) return Standing::dead;
  }
  const bool same_job = !me.job.empty() && holder.job == me.job && holder.cluster == me.cluster;
  if (same_job && holder.restart < me.restart) return Standing::older_restart;
  return Standing::unknown;
}

}  // namespace trestle::checkpoint
