// What people put behind --set, one a line. Values that were accepted are shown by explain in a way
// that --set takes, and then they are the same values.
#include "configs/recipe.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/options.h"

#include <string>
#include <vector>

using namespace trestle;

namespace {

using Explained = std::vector<configs::Explained>;

Explained explained(const std::vector<std::string>& sets) {
  return configs::Recipe::from_text("", "fuzz.toml", sets).explain(fuzz::schema());
}

std::vector<std::string> lines(std::string_view text) {
  std::vector<std::string> all;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    all.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::vector<std::string> sets = lines(fuzz::text(bytes, size));
  Explained once, twice;
  if (!fuzz::accepted(ExitCode::usage, [&] { once = explained(sets); })) return 0;
  std::vector<std::string> again;
  for (const configs::Explained& one : once) {
    if (one.source != "default") again.push_back(one.key + "=" + one.value);
  }
  fuzz::demand(fuzz::accepted(ExitCode::usage, [&] { twice = explained(again); }),
               "what explain shows can be set");
  for (std::size_t i = 0; i < once.size(); ++i) {
    fuzz::demand(once[i].value == twice[i].value, "what explain shows is the value", once[i].value);
  }
  return 0;
}
