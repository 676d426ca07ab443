// A recipe: what one run was told, with the place where each thing was said.
//
//   auto recipe = configs::Recipe::load("configs/recipes/quickstart.toml", sets);
//   recipe.check(schema);                                  // everything wrong, at once
//   auto optim = recipe.section<OptimOptions>("optim");    // defaults + what the recipe says
//   if (optim.warmup > steps) throw recipe.error_at("optim.warmup", "optim.warmup = ... ");
//
// `extends = "base.toml"` at the top builds on another recipe, relative to the file that says it;
// the child wins key by key, then --set in order. In --set, text that is no TOML value is a string.
// LOCAL. THREADS: a recipe never changes; copies share it and any thread may read.
// Every function throws Error(ExitCode::usage), each line beginning with file:line or --set k=v.
#pragma once
#include "base/error.h"
#include "configs/describe.h"
#include "configs/schema.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::configs {

struct Explained {
  std::string key;     ///< "optim.learning_rate"
  std::string value;   ///< effective, as a recipe writes it
  std::string source;  ///< "default", "configs/recipes/x.toml:12" or "--set"
  std::string default_value;
  std::string type, unit, range, help;
  std::string needs;        ///< "ema.enabled = true"; empty: nothing
  bool has_effect = true;   ///< what it needs is so
  bool may_change = false;  ///< when the run is resumed
};

class Recipe {
 public:
  static Recipe load(const std::filesystem::path& file, std::span<const std::string> sets = {});
  /// A resolved recipe, as a checkpoint carries it; `extends` is refused here.
  static Recipe from_text(std::string_view toml, std::string name_for_errors,
                          std::span<const std::string> sets = {});

  /// The file, or the name given for errors.
  const std::string& name() const;

  template <class Options>
  Options section(std::string_view name) const {
    Options options;
    fill(name, [&](Fields& fields) { options.describe(fields); });
    return options;
  }

  /// A section over another's values: what [name] does not say is as in [inherits].
  template <class Options>
  Options overlay(std::string_view name, std::string_view inherits) const {
    auto options = section<Options>(inherits);
    fill(name, [&](Fields& fields) { options.describe(fields); });
    return options;
  }

  /// Unknown sections and keys (with the nearest known one), ill-typed values, and keys that were
  /// set though nothing reads them, one a line.
  void check(const Schema& schema) const;

  /// Every described key with its effective value, sections in schema order; a key without effect
  /// is a comment. Reading it again gives the same values to the bit. Checks first: nothing that
  /// was said may get lost.
  std::string resolved_toml(const Schema& schema) const;
  std::vector<Explained> explain(const Schema& schema) const;

  /// Said by a recipe or by --set, even if it repeats the default.
  bool is_set(std::string_view dotted_key) const;

  /// To throw for a value that is well-typed but cannot be: the message should name the key, its
  /// place is put in front (the recipe alone where the key keeps its default).
  Error error_at(std::string_view dotted_key, std::string_view message) const;

 private:
  struct Data;
  explicit Recipe(std::shared_ptr<const Data> data);
  void fill(std::string_view section, const std::function<void(Fields&)>& describe) const;

  std::shared_ptr<const Data> data_;
};

}  // namespace trestle::configs
