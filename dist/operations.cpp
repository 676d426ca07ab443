#include "dist/operations.h"

#include "base/error.h"
#include "dist/reduce.h"
#include "dist/slices.h"
#include "dist/staged.h"
#include "dist/two_level.h"

#include <algorithm>
#include <cstring>

namespace trestle::dist {
namespace {

/// Everyone's slice to everyone. Starting at the next rank keeps all from sending to rank 0 first.
void add_all_to_all(Messages& messages, const Channel& channel, std::span<const std::byte> mine,
                    auto&& place_of) {
  const int rank = channel.rank(), size = channel.size();
  for (int k = 1; k < size; ++k) {
    const int from = (rank + size - k) % size;
    messages.outgoing.push_back({(rank + k) % size, mine});
    messages.incoming.push_back({from, place_of(from)});
  }
}

class AllGather : public Staged {
 public:
  AllGather(Channel& channel, const Call& call, std::span<const std::byte> mine,
            std::span<std::byte> all)
      : Staged(channel, call, static_cast<int64_t>(all.size())), mine_(mine), all_(all) {}

 private:
  std::span<std::byte> place(int rank) const {
    return all_.subspan(rank * mine_.size(), mine_.size());
  }

  bool prepare(int64_t stage, Messages& messages) override {
    if (stage == 1) return false;
    const auto own = place(rank());
    if (!own.empty() && own.data() != mine_.data()) {
      std::memcpy(own.data(), mine_.data(), own.size());
    }
    add_all_to_all(messages, channel(), mine_, [&](int from) { return place(from); });
    return true;
  }

  std::span<const std::byte> mine_;
  std::span<std::byte> all_;
};

/// First the sizes, then what has them.
class GatherTexts : public Staged {
 public:
  GatherTexts(Channel& channel, const Call& call, std::string_view mine,
              std::vector<std::string>& all)
      : Staged(channel, call, static_cast<int64_t>(mine.size())),
        mine_(mine),
        all_(all),
        my_size_(mine.size()),
        sizes_(channel.size()) {}

 private:
  bool prepare(int64_t stage, Messages& messages) override {
    if (stage == 2) return false;
    if (stage == 0) {
      add_all_to_all(messages, channel(), std::as_bytes(std::span(&my_size_, 1)),
                     [&](int from) { return std::as_writable_bytes(std::span(&sizes_[from], 1)); });
    } else {
      all_.resize(size());
      for (int from = 0; from < size(); ++from) all_[from].resize(sizes_[from]);
      all_[rank()] = mine_;
      add_all_to_all(messages, channel(), std::as_bytes(std::span(mine_)), [&](int from) {
        return std::as_writable_bytes(std::span(all_[from].data(), all_[from].size()));
      });
    }
    return true;
  }

  std::string_view mine_;
  std::vector<std::string>& all_;
  std::uint64_t my_size_;
  std::vector<std::uint64_t> sizes_;
};

class Broadcast : public Staged {
 public:
  Broadcast(Channel& channel, const Call& call, std::span<std::byte> bytes, int root)
      : Staged(channel, call, static_cast<int64_t>(bytes.size())), bytes_(bytes), root_(root) {}

 private:
  // Counted from the root, rank v hears from v without its lowest set bit, and then speaks to
  // v + 1, v + 2, v + 4 ... below that bit.
  bool prepare(int64_t stage, Messages& messages) override {
    if (stage == 2) return false;
    const int v = (rank() - root_ + size()) % size();
    const auto real = [&](int counted) { return (counted + root_) % size(); };
    int bit = 1;
    while (bit < size() && (v & bit) == 0) bit <<= 1;
    if (stage == 0) {
      if (v != 0) messages.incoming.push_back({real(v - bit), bytes_});
    } else {
      for (bit >>= 1; bit > 0; bit >>= 1) {
        if (v + bit < size()) messages.outgoing.push_back({real(v + bit), bytes_});
      }
    }
    return true;
  }

  std::span<std::byte> bytes_;
  int root_;
};

class Barrier : public Staged {
 public:
  Barrier(Channel& channel, const Call& call) : Staged(channel, call, 0) {}

 private:
  /// After round k a rank has heard, through others, from the 2^(k+1) - 1 ranks before it.
  bool prepare(int64_t round, Messages& messages) override {
    const int64_t distance = int64_t{1} << round;
    if (distance >= size()) return false;
    const int step = static_cast<int>(distance);
    messages.outgoing.push_back({(rank() + step) % size(), {&token_, 1}});
    messages.incoming.push_back({(rank() + size() - step) % size(), {&heard_, 1}});
    return true;
  }

  std::byte token_{1}, heard_{};
};

/// out = this rank's slice of in, reduced over ranks: every rank sends each other rank that one's
/// slice, a chunk at a time, and adds what it gets in rank order. Then, if asked to, it sends its
/// sums to everyone.
template <class In, class T>
class Reduce : public Staged {
 public:
  Reduce(Channel& channel, const Call& call, std::span<const std::byte> in, Slices slices,
         std::byte* out, ReduceOp op, std::byte* gathered)
      : Staged(channel, call, static_cast<int64_t>(in.size())),
        in_(reinterpret_cast<const In*>(in.data())),
        slices_(std::move(slices)),
        out_(reinterpret_cast<T*>(out)),
        op_(op),
        gathered_(reinterpret_cast<T*>(gathered)),
        step_(std::max<int64_t>(1,
                                kStagingBytes / static_cast<int64_t>(sizeof(In)) / channel.size())),
        chunks_((slices_.longest() + step_ - 1) / step_),
        half_(size() > 1 ? size() * std::min(step_, slices_.count(rank())) : 0) {}

 private:
  int64_t count(int rank, int64_t chunk) const {
    return std::clamp<int64_t>(slices_.count(rank) - chunk * step_, 0, step_);
  }
  const In* part_of(int rank, int64_t chunk) const {
    return in_ + slices_.begins[rank] + chunk * step_;
  }
  /// Where the chunk that another rank sends arrives.
  In* arrival(int from, int64_t chunk) const {
    return staging_ + chunk % 2 * half_ + from * count(rank(), chunk);
  }

  // Stages: a chunk each; one without messages, in which the last chunk is added; the gathering.
  bool prepare(int64_t stage, Messages& messages) override {
    if (stage == 0) staging_ = reinterpret_cast<In*>(staging(2 * half_ * sizeof(In)));
    if (stage < chunks_) {
      for (int k = 1; k < size(); ++k) {
        const int to = (rank() + k) % size(), from = (rank() + size() - k) % size();
        const auto mine = static_cast<size_t>(count(rank(), stage));
        messages.outgoing.push_back(
            {to, std::as_bytes(std::span(part_of(to, stage), count(to, stage)))});
        messages.incoming.push_back(
            {from, std::as_writable_bytes(std::span(arrival(from, stage), mine))});
      }
      return true;
    }
    if (!gathered_) return false;
    if (stage == chunks_ + 1) {
      const auto slice = [&](int rank) {
        return std::as_writable_bytes(
            std::span(gathered_ + slices_.begins[rank], slices_.count(rank)));
      };
      add_all_to_all(messages, channel(), slice(rank()), slice);
    }
    return stage <= chunks_ + 1;
  }

  /// Adds the chunk that has arrived while the next one travels.
  void meanwhile(int64_t stage) override {
    const int64_t chunk = stage - 1;
    if (chunk < 0 || chunk >= chunks_) return;
    const In* own = part_of(rank(), chunk);
    T* out = out_ + chunk * step_;
    if (size() == 1 && static_cast<const void*>(own) == out) return;
    std::vector<const In*> parts;
    for (int from = 0; from < size(); ++from) {
      parts.push_back(from == rank() ? own : arrival(from, chunk));
    }
    combine_in_order<T>(std::span<const In* const>(parts), count(rank(), chunk), out, op_);
  }

  const In* in_;
  Slices slices_;
  T* out_;
  ReduceOp op_;
  T* gathered_;  // null: no gathering
  int64_t step_, chunks_, half_;
  In* staging_ = nullptr;
};

/// One message. Outside the calls of the channel: only two ranks know of it.
class Message : public Operation {
 public:
  Message(Channel& channel, const Call& call, Messages messages, bool is_urgent)
      : channel_(channel.shared_from_this()),
        keep_(call.keep),
        messages_(std::move(messages)),
        is_urgent_(is_urgent) {
    if (!is_urgent) return;
    const bool is_outgoing = !messages_.outgoing.empty();
    const int peer = is_outgoing ? messages_.outgoing[0].to : messages_.incoming[0].from;
    const size_t bytes =
        is_outgoing ? messages_.outgoing[0].bytes.size() : messages_.incoming[0].bytes.size();
    receipt_ =
        channel.transport().observed().queued({.channel = channel.number(),
                                               .channel_name = channel.name(),
                                               .members = channel.members(),
                                               .sequence = channel.count_message(peer, is_outgoing),
                                               .kind = call.kind,
                                               .name = call.name,
                                               .bytes = static_cast<int64_t>(bytes),
                                               .peer = channel.members()[peer]});
  }

  bool is_urgent() const override { return is_urgent_; }

 private:
  Step advance() override {
    Observed& observed = channel_->transport().observed();
    const bool is_first = !std::exchange(is_posted_, true);
    if (is_first) {
      observed.started(receipt_);
      exchange_ = channel_->post(messages_);
    }
    if (exchange_ && !exchange_->test()) return is_first ? Step::moved : Step::waiting;
    exchange_.reset();
    observed.finished(receipt_);
    return Step::finished;
  }

  void withdraw() noexcept override { exchange_.reset(); }

  std::shared_ptr<Channel> channel_;
  std::shared_ptr<const void> keep_;
  Messages messages_;
  bool is_urgent_;
  Observed::Receipt receipt_;
  bool is_posted_ = false;
  std::unique_ptr<Exchange> exchange_;  // declared last: withdrawn before what it writes to
};

void require_parts(const Channel& channel, size_t part, size_t whole) {
  TRESTLE_ASSERT(whole == part * channel.size(), "{} bytes from each of {} ranks do not make {}",
                 part, channel.size(), whole);
}

}  // namespace

Pending all_reduce(Channel& channel, const Call& call, Arithmetic arithmetic,
                   std::span<std::byte> data, ReduceOp op) {
  if (call.two_level) return two_level::all_reduce(channel, call, arithmetic, data, op);
  return with_types(arithmetic, [&]<class In, class T>() -> Pending {
    TRESTLE_ASSERT((std::is_same_v<In, T>), "all_reduce in place keeps its type");
    auto slices = Slices::balanced(static_cast<int64_t>(data.size() / sizeof(T)), channel.size());
    std::byte* own = data.data() + slices.begins[channel.rank()] * sizeof(T);
    return issue<Reduce<In, T>>(channel, call, data, std::move(slices), own, op,
                                channel.size() > 1 ? data.data() : nullptr);
  });
}

Pending reduce_scatter(Channel& channel, const Call& call, Arithmetic arithmetic,
                       std::span<const std::byte> in, std::span<std::byte> out, ReduceOp op) {
  if (call.two_level) return two_level::reduce_scatter(channel, call, arithmetic, in, out, op);
  return with_types(arithmetic, [&]<class In, class T>() -> Pending {
    require_parts(channel, out.size() / sizeof(T) * sizeof(In), in.size());
    auto slices = Slices::even(static_cast<int64_t>(out.size() / sizeof(T)), channel.size());
    return issue<Reduce<In, T>>(channel, call, in, std::move(slices), out.data(), op, nullptr);
  });
}

Pending all_gather(Channel& channel, const Call& call, std::span<const std::byte> mine,
                   std::span<std::byte> all) {
  if (call.two_level) return two_level::all_gather(channel, call, mine, all);
  require_parts(channel, mine.size(), all.size());
  return issue<AllGather>(channel, call, mine, all);
}

Pending gather_texts(Channel& channel, const Call& call, std::string_view mine,
                     std::vector<std::string>& all) {
  return issue<GatherTexts>(channel, call, mine, all);
}

Pending broadcast(Channel& channel, const Call& call, std::span<std::byte> bytes, int root) {
  TRESTLE_ASSERT(root >= 0 && root < channel.size(), "root {} of {} ranks", root, channel.size());
  return issue<Broadcast>(channel, call, bytes, root);
}

Pending barrier(Channel& channel, const Call& call) { return issue<Barrier>(channel, call); }

Pending send(Channel& channel, const Call& call, std::span<const std::byte> bytes, int to) {
  return issue<Message>(channel, call, Messages{.outgoing = {{to, bytes}}}, true);
}

Pending receive(Channel& channel, const Call& call, std::span<std::byte> bytes, int from) {
  return issue<Message>(channel, call, Messages{.incoming = {{from, bytes}}}, true);
}

Pending send_at_leisure(Channel& channel, std::shared_ptr<const void> keep,
                        std::span<const std::byte> bytes, int to) {
  return issue<Message>(channel, Call{.kind = "send", .keep = std::move(keep)},
                        Messages{.outgoing = {{to, bytes}}}, false);
}

Pending receive_at_leisure(Channel& channel, std::shared_ptr<const void> keep,
                           std::span<std::byte> bytes, int from) {
  return issue<Message>(channel, Call{.kind = "recv", .keep = std::move(keep)},
                        Messages{.incoming = {{from, bytes}}}, false);
}

}  // namespace trestle::dist
