// What `trestle doctor` says: a finding a line, with what to do where something is not as it should
// be. Judges (cpu.h, files.h, ...) are functions of facts alone, so that a test can invent these.
// LOCAL. THREADS: any.
#pragma once
#include <span>
#include <string>
#include <vector>

namespace trestle::launch::doctor {

enum class Health : int { ok, warn, fail };

struct Finding {
  std::string what;         ///< short and stable: "open_files"
  std::string value = {};   ///< as found, with the hosts named where they differ
  std::string advice = {};  ///< why it matters and what to do; empty where all is well
  Health health = Health::ok;

  /// From now on at least as bad, with one more sentence of advice.
  void complain(Health at_least, const std::string& sentence);
};

Health worst(std::span<const Finding> findings);

/// Lines for people: health, what, value; what to do on a line below.
std::string table(std::span<const Finding> findings);

/// {"format": "trestle doctor", "version": 1, "health": "warn", "ranks": 4, "hosts": [...],
///  "checks": [{"check": "shm", "health": "ok", "value": "...", "advice": ""}, ...]}
std::string to_json(std::span<const Finding> findings, int ranks,
                    const std::vector<std::string>& hosts);

}  // namespace trestle::launch::doctor
