// The text of a recipe. One that passes the checks can be resolved, and its resolved text says the
// same again, to the byte.
#include "configs/recipe.h"

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/options.h"

using namespace trestle;

namespace {

std::string resolved(std::string_view toml) {
  const auto recipe = configs::Recipe::from_text(toml, "fuzz.toml");
  std::string text = recipe.resolved_toml(fuzz::schema());
  recipe.section<fuzz::TrainOptions>("train");  // what passed the checks also loads
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  std::string once, twice;
  if (!fuzz::accepted(ExitCode::usage, [&] { once = resolved(fuzz::text(bytes, size)); })) return 0;
  fuzz::demand(fuzz::accepted(ExitCode::usage, [&] { twice = resolved(once); }),
               "a resolved recipe is accepted", once);
  fuzz::demand(once == twice, "a resolved recipe says the same again", once + "\n" + twice);
  return 0;
}
