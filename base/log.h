// Logging facade. Text is formatted here and handed over as a plain string, because torch ships
// its own fmt and a file that sees torch cannot include spdlog.
//
// LOCAL. THREADS: any. Ranks other than 0 print warnings and errors only, with their rank in front.
#pragma once
#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace trestle {

enum class LogLevel { debug, info, warn, error };

/// Called once the rank is known; before that, the process speaks as rank 0 of 1.
void set_log_rank(int rank, int world);
void set_log_level(LogLevel level);

/// Also appends every line to this file (created with its folder). Empty closes it.
void set_log_file(std::string_view path);

void log_line(LogLevel level, std::string_view line);

/// A warning that every rank comes to in the same words (a recipe's, say): only rank 0 shows it.
void log_common_warning(std::string_view line);

/// To the file alone: what a terminal shows in another way.
void log_to_file(std::string_view line);

/// To the file alone, which is then closed: no other line comes after it.
void log_last_line(std::string_view line);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warn, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace trestle
