#include "launch/doctor/finding.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <iterator>

namespace trestle::launch::doctor {
namespace {

const char* name_of(Health health) {
  constexpr const char* kNames[] = {"ok", "warn", "fail"};
  return kNames[static_cast<int>(health)];
}

}  // namespace

void Finding::complain(Health at_least, const std::string& sentence) {
  health = std::max(health, at_least);
  advice += (advice.empty() ? "" : " ") + sentence;
}

Health worst(std::span<const Finding> findings) {
  Health health = Health::ok;
  for (const Finding& finding : findings) health = std::max(health, finding.health);
  return health;
}

std::string table(std::span<const Finding> findings) {
  std::size_t width = 0;
  for (const Finding& finding : findings) width = std::max(width, finding.what.size());
  std::string text;
  for (const Finding& finding : findings) {
    fmt::format_to(std::back_inserter(text), "{:<4}  {:<{}}  {}\n", name_of(finding.health),
                   finding.what, width, finding.value);
    if (!finding.advice.empty())
      fmt::format_to(std::back_inserter(text), "{:{}}  -> {}\n", "", width + 6, finding.advice);
  }
  return text;
}

std::string to_json(std::span<const Finding> findings, int ranks,
                    const std::vector<std::string>& hosts) {
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const Finding& finding : findings)
    checks.push_back({{"check", finding.what},
                      {"health", name_of(finding.health)},
                      {"value", finding.value},
                      {"advice", finding.advice}});
  const nlohmann::ordered_json report = {{"format", "trestle doctor"},
                                         {"version", 1},
                                         {"health", name_of(worst(findings))},
                                         {"ranks", ranks},
                                         {"hosts", hosts},
                                         {"checks", std::move(checks)}};
  return report.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace trestle::launch::doctor
