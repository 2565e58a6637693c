// Watching the eventfd, and telling its owner.
#include "vm/doorbell.h"

#include <sys/epoll.h>

#include <utility>

namespace vmfork {

Result<std::unique_ptr<Doorbell>> Doorbell::Create(EventLoop& loop) {
  VMFORK_TRY(event, EventFd::Create());
  std::unique_ptr<Doorbell> doorbell(new Doorbell(loop, std::move(event)));
  VMFORK_CHECK(loop.Add(doorbell->event_.Get(), EPOLLIN, doorbell.get()));
  return doorbell;
}

Doorbell::~Doorbell() { loop_.Remove(event_.Get(), this); }

void Doorbell::OnEvents(uint32_t events) {
  event_.Drain();
  if (EventHandler* owner = owner_) owner->OnEvents(events);
}

}  // namespace vmfork
