#include "base/log.h"

#include "base/terminal.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <mutex>
#include <string>

namespace trestle {
namespace {

struct Sinks {
  std::mutex mutex;
  int rank = 0;
  int world = 1;
  LogLevel level = LogLevel::info;
  std::shared_ptr<spdlog::logger> console;
  std::shared_ptr<spdlog::logger> file;
};

std::shared_ptr<spdlog::logger> make_console() {
  // Plain text on stderr: stdout belongs to what a command prints for programs to read.
  auto logger = std::make_shared<spdlog::logger>("trestle",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%v");
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  return logger;
}

Sinks& sinks() {
  static Sinks state;
  return state;
}

const char* prefix(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return "debug: ";
    case LogLevel::info:
      return "";
    case LogLevel::warn:
      return "warning: ";
    case LogLevel::error:
      return "error: ";
  }
  return "";
}

}  // namespace

void set_log_rank(int rank, int world) {
  std::scoped_lock lock(sinks().mutex);
  sinks().rank = rank;
  sinks().world = world;
}

void set_log_level(LogLevel level) {
  std::scoped_lock lock(sinks().mutex);
  sinks().level = level;
}

void set_log_file(std::string_view path) {
  std::scoped_lock lock(sinks().mutex);
  sinks().file.reset();
  if (path.empty()) return;
  auto logger = std::make_shared<spdlog::logger>(
      "file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(std::string(path)));
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %v");
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  sinks().file = logger;
}

void log_to_file(std::string_view line) {
  std::scoped_lock lock(sinks().mutex);
  if (sinks().file) sinks().file->log(spdlog::level::info, line);
}

void log_last_line(std::string_view line) {
  std::scoped_lock lock(sinks().mutex);
  if (sinks().file) sinks().file->log(spdlog::level::info, line);
  sinks().file.reset();
}

void log_common_warning(std::string_view line) {
  bool is_root;
  {
    std::scoped_lock lock(sinks().mutex);
    is_root = sinks().rank == 0;
  }
  if (is_root) log_line(LogLevel::warn, line);
}

void log_line(LogLevel level, std::string_view line) {
  std::scoped_lock lock(sinks().mutex);
  if (level < sinks().level) return;
  std::string text = prefix(level);
  text += line;
  if (sinks().file) sinks().file->log(spdlog::level::info, text);
  const bool speaks = sinks().rank == 0 || level >= LogLevel::warn;
  if (!speaks) return;
  if (sinks().rank != 0) text = "rank " + std::to_string(sinks().rank) + ": " + text;
  if (!sinks().console) sinks().console = make_console();
  // A progress line may stand on the terminal's current line; a message takes its place.
  if (stderr_is_terminal()) text.insert(0, "\r\x1b[K");
  sinks().console->log(spdlog::level::info, text);
}

}  // namespace trestle
