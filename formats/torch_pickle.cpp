#include "formats/torch_pickle.h"

#include "formats/file_problem.h"
#include "formats/strict_json.h"
#include "formats/torch_pickle_words.h"

#include <fmt/ranges.h>

#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <unordered_map>

namespace trestle::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "pickled numbers are little-endian");

constexpr std::size_t kMaxDimensions = 64;  // torch's limit
constexpr std::size_t kMaxNameBytes = 200;  // of a module or what is wanted from it
constexpr std::string_view kSaveTensorsOnly =
    "If you trust it, load it in Python and save its tensors alone: "
    "torch.save(model.state_dict(), PATH).";

using Handle = Pickle::Handle;
using Function = Pickle::Function;

template <class... Args>
[[noreturn]] void refuse_object(fmt::format_string<Args...> format, Args&&... args) {
  throw FileProblem(fmt::format(format, std::forward<Args>(args)...), kSaveTensorsOnly);
}

class Machine {
 public:
  explicit Machine(std::string_view text) : text_(text) {}

  Pickle run() {
    if (take() != '\x80' || take() != 2) refuse_object("its pickle is not of protocol 2");
    for (char instruction; (instruction = take()) != '.';) step(instruction);
    if (stack_.size() != 1 || !marks_.empty() || at_ != text_.size()) {
      refuse_damaged("its pickle does not end with one value");
    }
    pickle_.root = stack_.front();
    return std::move(pickle_);
  }

 private:
  void step(char instruction) {
    switch (instruction) {
      case 'N':
        return push(Pickle::None{});
      case '\x88':
        return push(true);
      case '\x89':
        return push(false);
      case 'K':
        return push(std::int64_t{number<std::uint8_t>()});
      case 'M':
        return push(std::int64_t{number<std::uint16_t>()});
      case 'J':
        return push(std::int64_t{number<std::int32_t>()});
      case '\x8a':
        return push_long();
      case 'G':
        return push(std::bit_cast<double>(__builtin_bswap64(number<std::uint64_t>())));
      case 'X':
        return push(take(number<std::uint32_t>()));
      case ']':
        return push(Pickle::List{});
      case '}':
        return push(Pickle::Dict{});
      case ')':
        return push(Pickle::Tuple{});
      case '(':
        return marks_.push_back(stack_.size());
      case 't':
        return push(Pickle::Tuple{pop_to_mark()});
      case '\x85':
        return push(Pickle::Tuple{pop(1)});
      case '\x86':
        return push(Pickle::Tuple{pop(2)});
      case '\x87':
        return push(Pickle::Tuple{pop(3)});
      case 'a':
        return append(pop(1));
      case 'e':
        return append(pop_to_mark());
      case 's':
        return set_items(pop(2));
      case 'u':
        return set_items(pop_to_mark());
      case 'q':
        return remember(number<std::uint8_t>());
      case 'r':
        return remember(number<std::uint32_t>());
      case 'h':
        return recall(number<std::uint8_t>());
      case 'j':
        return recall(number<std::uint32_t>());
      case 'c':
        return push_global();
      case 'Q':
        return push_storage();
      case 'R':
        return call();
      case 'b':
        return set_attributes();
      default:
        return refuse_instruction(instruction);
    }
  }

  [[noreturn]] static void refuse_instruction(char instruction) {
    for (const auto& [code, name] : kOtherInstructions) {
      if (code == instruction) refuse_object("its pickle has the instruction {}", name);
    }
    refuse_object("its pickle has the instruction 0x{:02x}",
                  static_cast<unsigned char>(instruction));
  }

  // The text.

  std::string_view take(std::size_t bytes) {
    if (bytes > text_.size() - at_) refuse_damaged("its pickle ends too early");
    const std::string_view taken = text_.substr(at_, bytes);
    at_ += bytes;
    return taken;
  }
  char take() { return take(1).front(); }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view line() {
    const std::string_view rest = text_.substr(at_, kMaxNameBytes + 1);
    const std::size_t length = rest.find('\n');
    if (length == rest.npos) refuse_damaged("a name in its pickle does not end");
    at_ += length + 1;
    return rest.substr(0, length);
  }

  // The stack and the memo.

  void push(Pickle::Value value) {
    if (pickle_.values.size() == Pickle::kMaxValues) {
      refuse_object("it holds more than {} values", Pickle::kMaxValues);
    }
    pickle_.values.push_back(std::move(value));
    stack_.push_back(static_cast<Handle>(pickle_.values.size() - 1));
  }

  /// The topmost `count` values, the deepest first. A mark is a floor that only its own
  /// instructions go below.
  std::vector<Handle> pop(std::size_t count) {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() - floor < count) refuse_damaged("its pickle takes a value that is not there");
    std::vector<Handle> popped(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return popped;
  }

  std::vector<Handle> pop_to_mark() {
    if (marks_.empty()) refuse_damaged("its pickle has no mark where it wants one");
    std::vector<Handle> popped = pop(stack_.size() - marks_.back());
    marks_.pop_back();
    return popped;
  }

  /// The value that stays on the stack and is changed.
  template <class T>
  T& top(const char* what) {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    auto* value = stack_.size() > floor ? std::get_if<T>(&pickle_.values[stack_.back()]) : nullptr;
    if (value == nullptr) refuse_object("its pickle adds to what is not {}", what);
    return *value;
  }

  void remember(std::uint32_t place) {
    if (stack_.empty()) refuse_damaged("its pickle takes a value that is not there");
    memo_[place] = stack_.back();
    if (memo_.size() > Pickle::kMaxValues) {
      refuse_object("it holds more than {} values", Pickle::kMaxValues);
    }
  }

  void recall(std::uint32_t place) {
    const auto found = memo_.find(place);
    if (found == memo_.end()) refuse_damaged("its pickle recalls a value that is not there");
    stack_.push_back(found->second);
  }

  // Values.

  void push_long() {
    const std::string_view bytes = take(number<std::uint8_t>());
    if (bytes.size() > sizeof(std::int64_t)) return push(Pickle::BigInteger{});
    const bool negative = !bytes.empty() && (bytes.back() & 0x80) != 0;
    std::int64_t value = negative ? -1 : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    push(value);
  }

  void append(const std::vector<Handle>& items) {
    auto& list = top<Pickle::List>("a list").items;
    list.insert(list.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<Handle>& items) {
    auto& dict = top<Pickle::Dict>("a dict").items;
    if (items.size() % 2 != 0) refuse_damaged("its pickle has a key without a value");
    for (std::size_t i = 0; i < items.size(); i += 2) dict.emplace_back(items[i], items[i + 1]);
  }

  /// Attributes of an OrderedDict, such as state_dict's _metadata: no items, and nobody's here.
  void set_attributes() {
    const Handle state = pop(1).front();
    top<Pickle::Dict>("a dict");
    if (!std::holds_alternative<Pickle::Dict>(pickle_[state])) {
      refuse_object("its pickle sets attributes that are not a dict");
    }
  }

  void push_global() {
    const std::string_view module = line(), name = line();
    for (const KnownFunction& known : kFunctions) {
      if (known.module == module && known.name == name) return push(known.function);
    }
    if (module == "torch.storage" && name == "UntypedStorage") {
      return push(Pickle::StorageClass{ElementType::uint8, false});
    }
    if (module == "torch") {
      for (const auto& [storage, dtype] : kStorages) {
        if (storage == name) return push(Pickle::StorageClass{dtype, true});
      }
      if (const auto dtype = element_type_named(name)) return push(*dtype);
    }
    refuse_object(
        "it asks for {} of the Python module {}, and only plain values and tensors are "
        "read: nothing is executed",
        shown(name), shown(module));
  }

  /// ("storage", class, key, device, elements), which the file has elsewhere.
  void push_storage() {
    const auto* id = std::get_if<Pickle::Tuple>(&pickle_[pop(1).front()]);
    if (id == nullptr || id->items.size() != 5) refuse_object("its pickle names an odd storage");
    const auto& [word, kind, key, device, elements] =
        std::tie(id->items[0], id->items[1], id->items[2], id->items[3], id->items[4]);
    const auto* said = std::get_if<std::string_view>(&pickle_[word]);
    const auto* storage_class = std::get_if<Pickle::StorageClass>(&pickle_[kind]);
    const auto* name = std::get_if<std::string_view>(&pickle_[key]);
    const auto* count = std::get_if<std::int64_t>(&pickle_[elements]);
    if (said == nullptr || *said != "storage" || storage_class == nullptr || name == nullptr ||
        !std::holds_alternative<std::string_view>(pickle_[device]) || count == nullptr) {
      refuse_object("its pickle names an odd storage");
    }
    const std::uint64_t width = element_bytes(storage_class->dtype);
    if (*count < 0 || static_cast<std::uint64_t>(*count) > kMaxBytes / width) {
      refuse_damaged("storage {} is said to have {} elements", shown(*name), *count);
    }
    push(Pickle::Storage{*name, static_cast<std::uint64_t>(*count) * width, *storage_class});
  }

  void call() {
    const std::vector<Handle> pair = pop(2);
    const auto* function = std::get_if<Function>(&pickle_[pair[0]]);
    const auto* arguments = std::get_if<Pickle::Tuple>(&pickle_[pair[1]]);
    if (function == nullptr || arguments == nullptr) {
      refuse_object("its pickle calls what is no function");
    }
    // Copied, because a push moves the values.
    const std::vector<Handle> given = arguments->items;
    switch (*function) {
      case Function::ordered_dict:
        if (!given.empty()) refuse_object("an OrderedDict is made of something");
        return push(Pickle::Dict{});
      case Function::tensor_v2:
        return push_tensor(given, true);
      case Function::tensor_v3:
        return push_tensor(given, false);
      case Function::parameter:
        return push_parameter(given, 3);
      case Function::parameter_with_state:
        return push_parameter(given, 4);
    }
  }

  /// (tensor, requires_grad, hooks[, attributes]): the tensor is all that matters here.
  void push_parameter(const std::vector<Handle>& given, std::size_t arguments) {
    if (given.size() != arguments ||
        !std::holds_alternative<Pickle::Tensor>(pickle_[given.front()])) {
      refuse_object("a parameter is made of something else than a tensor");
    }
    stack_.push_back(given.front());
  }

  /// (storage, offset, shape, strides, requires_grad, hooks[, dtype][, flags]).
  void push_tensor(const std::vector<Handle>& given, bool typed) {
    const std::size_t flags = typed ? 6 : 7;
    if (given.size() != flags && given.size() != flags + 1) {
      refuse_object("a tensor is made of {} things", given.size());
    }
    const auto* storage = std::get_if<Pickle::Storage>(&pickle_[given[0]]);
    const auto* offset = std::get_if<std::int64_t>(&pickle_[given[1]]);
    const auto* dtype = typed ? nullptr : std::get_if<ElementType>(&pickle_[given[6]]);
    if (storage == nullptr || storage->kind.typed != typed || offset == nullptr || *offset < 0 ||
        (!typed && dtype == nullptr)) {
      refuse_object("a tensor is made of odd things");
    }
    if (given.size() > flags && !is_empty_dict(given[flags])) {
      refuse_object("a tensor in storage {} is only flagged as conjugated or negated",
                    shown(storage->key));
    }
    PickledTensor tensor{.storage = storage->key,
                         .storage_bytes = storage->bytes,
                         .dtype = typed ? storage->kind.dtype : *dtype,
                         .offset = static_cast<std::uint64_t>(*offset),
                         .shape = counts(given[2]),
                         .strides = counts(given[3])};
    check_bounds(tensor);
    if (pickle_.tensors.size() == Pickle::kMaxTensors) {
      refuse_object("it holds more than {} tensors", Pickle::kMaxTensors);
    }
    pickle_.tensors.push_back(std::move(tensor));
    push(Pickle::Tensor{static_cast<std::uint32_t>(pickle_.tensors.size() - 1)});
  }

  bool is_empty_dict(Handle handle) const {
    const auto* dict = std::get_if<Pickle::Dict>(&pickle_[handle]);
    return dict != nullptr && dict->items.empty();
  }

  std::vector<std::int64_t> counts(Handle handle) const {
    const auto* tuple = std::get_if<Pickle::Tuple>(&pickle_[handle]);
    if (tuple == nullptr || tuple->items.size() > kMaxDimensions) {
      refuse_object("a tensor's shape or strides are no tuple of at most {} integers",
                    kMaxDimensions);
    }
    std::vector<std::int64_t> result;
    for (const Handle item : tuple->items) {
      const auto* count = std::get_if<std::int64_t>(&pickle_[item]);
      if (count == nullptr || *count < 0) {
        refuse_object("a tensor's shape or strides hold something other than a count");
      }
      result.push_back(*count);
    }
    return result;
  }

  /// Every element lies within the storage, and their number fits in 64 bits.
  static void check_bounds(PickledTensor& tensor) {
    const auto refuse = [&] {
      refuse_damaged("a tensor [{}] with strides [{}] does not lie within storage {} of {} bytes",
                     fmt::join(tensor.shape, ", "), fmt::join(tensor.strides, ", "),
                     shown(tensor.storage), tensor.storage_bytes);
    };
    if (tensor.shape.size() != tensor.strides.size()) refuse();
    std::int64_t elements = 1;
    std::uint64_t last = tensor.offset;
    bool fits = true, empty = false;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      fits = fits && !__builtin_mul_overflow(elements, tensor.shape[i], &elements);
      if (tensor.shape[i] == 0) {
        empty = true;
        continue;
      }
      std::uint64_t step = 0;
      fits = fits && !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &step) &&
             !__builtin_add_overflow(last, step, &last);
    }
    if (!fits) refuse();
    const std::uint64_t within = tensor.storage_bytes / element_bytes(tensor.dtype);
    if (empty ? tensor.offset > within : last >= within) refuse();
    tensor.span = empty ? 0 : last - tensor.offset + 1;
  }

  static constexpr std::uint64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();

  std::string_view text_;
  std::size_t at_ = 0;
  Pickle pickle_;
  std::vector<Handle> stack_;
  std::vector<std::size_t> marks_;  // sizes of the stack
  std::unordered_map<std::uint32_t, Handle> memo_;
};

}  // namespace

Pickle read_torch_pickle(std::string_view text) { return Machine(text).run(); }

}  // namespace trestle::formats
