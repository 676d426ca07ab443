// Progress of long work: one line that is rewritten on a terminal, plain lines elsewhere.
// LOCAL; only rank 0 should have one. THREADS: one.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace trestle::trainers {

class Progress {
 public:
  /// `unit` is a plural noun. Every `line_every` units and at the end a plain line goes to the log
  /// (on a terminal: to the log file only).
  Progress(std::string title, std::string unit, std::int64_t done, std::int64_t total,
           std::int64_t line_every);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `details` follows the bar: "loss 0.031 | 95 samples/s".
  void update(std::int64_t done, const std::string& details);
  /// Ends the line, so that other output starts on a fresh one.
  void close();

 private:
  std::string title_, unit_;
  std::int64_t first_, total_, line_every_;
  std::int64_t last_line_ = -1;
  bool terminal_ = false, open_ = false;
  std::chrono::steady_clock::time_point started_, last_drawn_;
};

/// "1:02:03" or "2:05".
std::string clock_text(double seconds);

}  // namespace trestle::trainers
