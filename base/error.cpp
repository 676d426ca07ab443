#include "base/error.h"

namespace trestle {

void assertion_failed(const char* expression, const char* file, int line,
                      const std::string& message) {
  throw std::logic_error(
      fmt::format("{}:{}: {} does not hold: {} (a bug in Trestle; please report it)", file, line,
                  expression, message));
}

}  // namespace trestle
