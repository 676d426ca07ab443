// The visitor that fills an options struct; recipes and JSON files both read through it.
// LOCAL. THREADS: one.
#pragma once
#include "configs/value.h"

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle::configs {

class Loader : public Fields {
 public:
  /// What the file says at a key, and where; a null value means it says nothing.
  struct Said {
    const Value* value = nullptr;
    std::string source;
  };
  using Find = std::function<Said(std::string_view key)>;

  Loader(std::string_view section, Dialect dialect, Find find)
      : section_(section), dialect_(dialect), find_(std::move(find)) {}

  /// One line a problem, each beginning with its source.
  const std::vector<std::string>& problems() const { return problems_; }
  /// Every key that was described, in order.
  const std::vector<std::string>& keys() const { return keys_; }

 private:
  void visit(std::string_view key, FieldRef field, const Meta& meta) override;

  std::string section_;
  Dialect dialect_;
  Find find_;
  std::vector<std::string> problems_, keys_;
};

std::string joined_lines(const std::vector<std::string>& lines);

}  // namespace trestle::configs
