// Two places where Fast CDR 2 (2.2.6 to 2.3.5, as of Jazzy's and Kilted's late releases) does not keep within a message.
//
// 1. The last two bits of a message's head say how many bytes at its end are padding. `Cdr::read_encapsulation` takes
//    them off without looking whether they are there: of a message that is nothing but its head (four bytes) the end
//    then lies before the place that is read next, every later comparison "is so much left?" says yes, and texts and
//    lists of any length are read from whatever lies in memory.
// 2. Whether a list can be as long as it says is asked with `Cdr::jump`. Where the buffer is the reader's own, as in
//    requests and replies, that does not compare but makes the buffer longer: 32 bytes that speak of 800 million texts
//    are given memory for them.
//
// Nothing in a process can catch what follows. Any reader is concerned: topics, requests and replies of services and
// actions, and `ros_discovery_info`, which the middleware of every ROS 2 process reads in a thread of its own.
//
// This library has the same two functions, and is loaded before the middleware (nodes/ros/cdr_bounds.py): the loader
// binds to what it finds first. They refuse such messages as Fast CDR refuses others that are too short, and hand all
// others on. With a Fast CDR that looks for itself they change nothing.
#include <dlfcn.h>

#include <cstddef>

#include <fastcdr/Cdr.h>
#include <fastcdr/exceptions/NotEnoughMemoryException.h>

namespace
{
constexpr std::size_t kHead = 4;
constexpr unsigned kPadding = 3;           // the bits that say how much of the end is padding
constexpr std::size_t kMemberHeader = 8;   // whoever writes jumps over no more than this, and may make room for it

using eprosima::fastcdr::Cdr;

template<typename Function>
Function original(const char * name)
{
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}
}  // namespace

namespace eprosima
{
namespace fastcdr
{
Cdr & Cdr::read_encapsulation()
{
  static const auto read = original<Cdr & (*)(Cdr *)>("_ZN8eprosima7fastcdr3Cdr18read_encapsulationEv");
  const bool padded = cdr_buffer_.getBufferSize() == kHead && (cdr_buffer_.getBuffer()[kHead - 1] & kPadding);
  if (padded || read == nullptr) {
    throw exception::NotEnoughMemoryException(exception::NotEnoughMemoryException::NOT_ENOUGH_MEMORY_MESSAGE_DEFAULT);
  }
  return read(this);
}

bool Cdr::jump(std::size_t num_bytes)
{
  static const auto leap = original<bool (*)(Cdr *, std::size_t)>("_ZN8eprosima7fastcdr3Cdr4jumpEm");
  const std::size_t left = end_ - offset_;
  if (leap == nullptr || (num_bytes > left && num_bytes - left > kMemberHeader)) {
    return false;
  }
  return leap(this, num_bytes);
}
}  // namespace fastcdr
}  // namespace eprosima
