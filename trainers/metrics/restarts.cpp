#include "trainers/metrics/restarts.h"

#include "base/log.h"
#include "checkpoint/lease_record.h"
#include "formats/jsonl.h"

#include <nlohmann/json.hpp>

#include <fstream>

namespace trestle::trainers {
namespace {

constexpr std::size_t kReasonLimit = 1000;

void append(const std::filesystem::path& file, std::initializer_list<formats::JsonField> fields) {
  try {
    formats::JsonlWriter(file).append(fields);
  } catch (const Error& error) {
    log_warn("{} The run goes on without that line.", error.what());
  }
}

}  // namespace

void record_start(const std::filesystem::path& file, const StartLine& line) {
  const std::string time = checkpoint::time_text_now(), before = last_end(file);
  append(file, {{"event", std::string_view("start")},
                {"epoch", line.epoch},
                {"time", std::string_view(time)},
                {"from_step", line.from_step},
                {"host", std::string_view(line.host)},
                {"pid", line.pid},
                {"job", std::string_view(line.job)},
                {"requeue", line.requeue},
                {"world", line.world},
                {"hosts", std::string_view(line.hosts)},
                {"before", std::string_view(before)}});
}

void record_end(const std::filesystem::path& file, const EndLine& line) {
  const std::string time = checkpoint::time_text_now();
  append(file, {{"event", std::string_view("end")},
                {"epoch", line.epoch},
                {"time", std::string_view(time)},
                {"step", line.step},
                {"code", static_cast<std::int64_t>(line.code)},
                {"reason", std::string_view(line.reason).substr(0, kReasonLimit)}});
}

std::string last_end(const std::filesystem::path& file) {
  std::ifstream in(file);
  nlohmann::json last;
  for (std::string text; std::getline(in, text);) {
    auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_object()) last = std::move(line);
  }
  if (!last.is_object()) return "";
  const auto number = [&](const char* key) {
    const auto found = last.find(key);
    return found != last.end() && found->is_number_integer() ? found->get<std::int64_t>() : -1;
  };
  if (number("code") < 0) return "no last word: it was killed, or its host was lost";
  std::string text = fmt::format("exit code {}", number("code"));
  if (number("step") >= 0) text += fmt::format(" at step {}", number("step"));
  return text;
}

}  // namespace trestle::trainers
